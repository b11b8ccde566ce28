"""The digest index of a segment: which row was made from an input, so that no input is encoded twice in one space.

Two arrays in the segment's group, over its valid rows whose input digest is known: `digest_index/prefix`, the first 8 bytes
(little-endian) of the digests, ascending, and `digest_index/row`. A pointer under `spaces/<digest of the space>/` says that
the segment has one. Everything follows from published files, so any two workers write the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from featstore.spaces import Space
from featstore.store.arrays import array_files, chunk_values
from featstore.store.chunks import row_chunk
from featstore.store.files import Files
from featstore.store.records import IndexPointer, dump
from featstore.store.zarr_format import CRC_BYTES, array_metadata, chunk_key, group_metadata

__all__ = [
    "DIGEST_BYTES",
    "INDEX",
    "index_files",
    "index_sizes",
    "indexed_inputs",
    "pointer_key",
    "prefixes",
    "publish_index",
    "space_key",
]

INDEX = "digest_index"
_VALID = 1
DIGEST_BYTES = 16
# searched in place, so a chunk may be large: few files even for 10^8 rows
_CHUNK_BYTES = 64 << 20


def prefixes(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 8 bytes of digests [n, 16] as numbers [n]."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8").reshape(-1).astype(np.uint64, copy=False)


def indexed_inputs(
    files: Files, key: str, shards: Iterable[int], *, rows: int, shard_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """What the index of a segment is made of: its valid rows with known inputs, ascending, and their digests [n, 16].

    Args:
        files: The store's files.
        key: Key of the segment's group.
        shards: Shards to look at, ascending; all that have known inputs.
        rows: Rows of the group.
        shard_rows: Rows of a shard.

    Raises:
        CorruptStoreError: a file is missing or damaged.
    """
    found, digests = [np.zeros(0, np.int64)], [np.zeros((0, DIGEST_BYTES), np.uint8)]
    for shard in shards:
        count = min(shard_rows, rows - shard * shard_rows)
        part = row_chunk(files, chunk_key(f"{key}/input_digest", shard, 2), shard_rows, DIGEST_BYTES)[:count]
        status = row_chunk(files, chunk_key(f"{key}/status", shard), shard_rows, 1)[:count, 0]
        known = np.flatnonzero((status == _VALID) & part.any(axis=1))
        found.append(known + shard * shard_rows)
        digests.append(part[known])
    return np.concatenate(found), np.concatenate(digests)


def index_files(rows: NDArray[np.int64], digests: NDArray[np.uint8]) -> Iterator[tuple[str, list[bytes | memoryview]]]:
    """The files of an index, by key below the segment, as pieces.

    Args:
        rows: Rows of the group, ascending, at least one.
        digests: Input digest of each, [len(rows), 16].
    """
    keys = prefixes(digests)
    order = np.argsort(keys, kind="stable")
    yield from array_files(f"{INDEX}/prefix", keys[order], _CHUNK_BYTES)
    yield from array_files(f"{INDEX}/row", rows[order], _CHUNK_BYTES)
    yield f"{INDEX}/zarr.json", [group_metadata()]


def index_sizes(rows: int) -> dict[str, int]:
    """Bytes of each of the files that `index_files` makes for so many rows."""
    sizes = {f"{INDEX}/zarr.json": len(group_metadata())}
    for name, kind in (("prefix", np.dtype(np.uint64)), ("row", np.dtype(np.int64))):
        chunk = chunk_values(rows, kind, _CHUNK_BYTES)
        sizes[f"{INDEX}/{name}/zarr.json"] = len(array_metadata((rows,), kind, (chunk,)))
        for number in range(-(-rows // chunk)):
            sizes[chunk_key(f"{INDEX}/{name}", number)] = chunk * kind.itemsize + CRC_BYTES
    return sizes


def publish_index(
    files: Files, key: str, pointer: IndexPointer, space: Space, rows: NDArray[np.int64], digests: NDArray[np.uint8]
) -> None:
    """Write the index of the segment under a key and the pointer to it, unless another worker did."""
    for name, pieces in index_files(rows, digests):
        files.put_new(f"{key}/{name}", pieces)
    files.put_new(pointer_key(space, pointer), [dump(pointer)])


def space_key(space: Space) -> str:
    """Where the pointers to all indexes of a space are."""
    return f"spaces/{space.digest}"


def pointer_key(space: Space, pointer: IndexPointer) -> str:
    """Where the pointer to a segment's index is."""
    return f"{space_key(space)}/{pointer.dataset}/{pointer.name}/{pointer.segment}.json"
