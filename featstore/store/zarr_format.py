"""The Zarr v3 bytes that featstore writes itself: metadata documents, chunks and shards, and how to read them back.

Everything here is plain Zarr v3 (regular grid, `bytes` + `crc32c`, optionally inside `sharding_indexed` with the index at
the end), equal byte for byte to what zarr-python writes. Writing it directly is what makes a shard one create-only file
with its own fsync, and what lets a shard be read as a strided memory map:

    chunk 0 rows | crc32c | chunk 1 rows | crc32c | … | index (offset, bytes per chunk; u64 little-endian) | crc32c
"""

from __future__ import annotations

import json
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError

__all__ = [
    "CRC_BYTES",
    "REPAIR_HINT",
    "array_metadata",
    "check_chunks",
    "chunk_key",
    "decode_chunk",
    "encode_chunk",
    "encode_index",
    "encode_shard",
    "group_metadata",
    "index_bytes",
    "read_regular_index",
    "shard_bytes",
]

CRC_BYTES = 4
REPAIR_HINT = "`featstore repair` mends it from a second copy of the store, or by encoding the images again"
_MISSING = np.uint64(2**64 - 1)


def group_metadata(attributes: dict[str, Any] | None = None) -> bytes:
    """`zarr.json` of a group."""
    return _document({"attributes": attributes or {}, "zarr_format": 3, "node_type": "group"})


def array_metadata(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk: tuple[int, ...],
    *,
    shard: tuple[int, ...] | None = None,
) -> bytes:
    """`zarr.json` of an array; floats are filled with NaN (a missing chunk never reads as data), integers with 0."""
    codecs: list[dict[str, Any]] = [_bytes_codec(dtype), {"name": "crc32c"}]
    if shard is not None:
        codecs = [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(chunk),
                    "codecs": codecs,
                    "index_codecs": [_bytes_codec(np.dtype("u8")), {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ]
    return _document(
        {
            "shape": list(shape),
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard or chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if dtype.kind == "f" else 0,
            "codecs": codecs,
            "attributes": {},
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
    )


def chunk_key(array: str, number: int, dimensions: int = 1) -> str:
    """Key of a chunk (or shard) of an array that is divided along its first dimension only.

    All chunks of an array lie in one folder: a folder for each, as the separator '/' would make, has to be made durable too.
    """
    return f"{array}/c.{number}" + ".0" * (dimensions - 1)


def encode_chunk(values: NDArray[Any], rows: int) -> list[memoryview | bytes]:
    """One unsharded chunk, padded with the fill value to `rows`, then its checksum."""
    block = _padded(values, rows).view(np.uint8).reshape(-1).data
    return [block, _crc(block)]


def decode_chunk(data: bytes | memoryview, dtype: np.dtype[Any], *, where: str) -> NDArray[Any]:
    """The flat values of an unsharded chunk (padding included) after checking its checksum."""
    view = memoryview(data)
    if len(view) < CRC_BYTES or (len(view) - CRC_BYTES) % dtype.itemsize:
        raise CorruptStoreError(f"{where} has {len(view)} bytes, which is no whole number of values", hint=REPAIR_HINT)
    body = view[:-CRC_BYTES]
    if _crc(body) != bytes(view[-CRC_BYTES:]):
        raise CorruptStoreError(f"{where} does not match its checksum", hint=REPAIR_HINT)
    return np.frombuffer(body, dtype=dtype.newbyteorder("<"))


def encode_shard(values: NDArray[Any], chunk_rows: int, shard_rows: int) -> list[memoryview | bytes]:
    """One shard of whole-row chunks as the pieces of its file, in order.

    Args:
        values: [n, D], C-contiguous, 1 ≤ n ≤ shard_rows. The last chunk is padded with the fill value to `chunk_rows`.
        chunk_rows: Rows of an inner chunk; divides `shard_rows`.
        shard_rows: Rows of a full shard; chunks beyond `n` are only named as missing in the index.
    """
    pieces: list[memoryview | bytes] = []
    for start in range(0, len(values), chunk_rows):
        pieces += encode_chunk(values[start : start + chunk_rows], chunk_rows)
    return [*pieces, *encode_index(len(values), values[0].nbytes, chunk_rows, shard_rows)]


def encode_index(rows: int, row_bytes: int, chunk_rows: int, shard_rows: int) -> list[bytes]:
    """The end of a shard of `rows` rows: where each chunk lies, and the checksum of that."""
    index = _regular_index(rows, row_bytes, chunk_rows, shard_rows).tobytes()
    return [index, _crc(index)]


def shard_bytes(rows: int, row_bytes: int, chunk_rows: int, shard_rows: int) -> int:
    """Size of the file that `encode_shard` makes of `rows` rows."""
    chunks = -(-rows // chunk_rows)
    return chunks * (chunk_rows * row_bytes + CRC_BYTES) + index_bytes(chunk_rows, shard_rows)


def check_chunks(data: memoryview, chunk_bytes: int, *, where: str, first: int = 0) -> None:
    """Check the checksum of consecutive chunks of a shard, index excluded, of which the first is number `first`.

    Raises:
        CorruptStoreError: one does not match.
    """
    stride = chunk_bytes + CRC_BYTES
    for start in range(0, len(data), stride):
        if _crc(data[start : start + chunk_bytes]) != bytes(data[start + chunk_bytes : start + stride]):
            raise CorruptStoreError(
                f"chunk {first + start // stride} of {where} does not match its checksum", hint=REPAIR_HINT
            )


def index_bytes(chunk_rows: int, shard_rows: int) -> int:
    """Size of a shard's index with its checksum."""
    return shard_rows // chunk_rows * 16 + CRC_BYTES


def read_regular_index(
    tail: bytes | memoryview, rows: int, row_bytes: int, chunk_rows: int, shard_rows: int, *, where: str
) -> bool:
    """Whether the index at a shard's end describes the regular stride, so that the file can be mapped as rows.

    False for a shard that another writer laid out differently (it is then read through the Zarr API).

    Raises:
        CorruptStoreError: the index does not match its checksum.
    """
    offsets = decode_chunk(tail, np.dtype("u8"), where=f"the index of {where}").reshape(-1, 2)
    expected = _regular_index(rows, row_bytes, chunk_rows, shard_rows)
    return bool(np.array_equal(offsets, expected))


def _regular_index(rows: int, row_bytes: int, chunk_rows: int, shard_rows: int) -> NDArray[np.uint64]:
    """(offset, bytes) of every chunk when chunks lie one after another, missing beyond the last row."""
    chunks = -(-rows // chunk_rows)
    size = chunk_rows * row_bytes + CRC_BYTES
    index = np.full((shard_rows // chunk_rows, 2), _MISSING, dtype="<u8")
    index[:chunks, 0] = np.arange(chunks, dtype="u8") * np.uint64(size)
    index[:chunks, 1] = size
    return index


def _bytes_codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    if dtype.itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _document(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode()


def _padded(values: NDArray[Any], rows: int) -> NDArray[Any]:
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    if len(little) == rows:
        return little
    fill = np.nan if values.dtype.kind == "f" else 0
    padded = np.full((rows, *values.shape[1:]), fill, dtype=little.dtype)
    padded[: len(little)] = little
    return padded


def _crc(data: bytes | memoryview) -> bytes:
    # google_crc32c takes arrays and bytes, but no memoryview of something writable
    return int(google_crc32c.value(np.frombuffer(data, dtype=np.uint8))).to_bytes(CRC_BYTES, "little")
