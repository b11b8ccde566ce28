"""Whole small arrays of a segment (ids, columns): written chunk by chunk, read back in one piece with every checksum."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError
from featstore.store.files import LocalFiles
from featstore.store.zarr_format import array_metadata, decode_chunk, encode_chunk, group_metadata

__all__ = ["GroupWriter", "read_array", "read_strings"]

_CHUNK_BYTES = 2 << 20
_REPAIR = "restore the file from a copy of the store"


class GroupWriter:
    """Writes one Zarr group of one-dimensional arrays under a fresh name, metadata last.

    Args:
        files: The store's files.
        key: Key of the group; nothing may be there yet.
    """

    def __init__(self, files: LocalFiles, key: str) -> None:
        self._files = files
        self._key = key
        self._metadata: dict[str, bytes] = {"zarr.json": group_metadata()}
        self._digests: dict[str, str] = {}

    def array(self, name: str, values: NDArray[Any]) -> None:
        """Add an array; `name` may hold '/' (the groups between are added too)."""
        for depth in range(1, name.count("/") + 1):
            self._metadata["/".join([*name.split("/")[:depth], "zarr.json"])] = group_metadata()
        chunk = max(1, min(len(values), _CHUNK_BYTES // values.dtype.itemsize))
        self._metadata[f"{name}/zarr.json"] = array_metadata(values.shape, values.dtype, (chunk,))
        for number, start in enumerate(range(0, len(values), chunk)):
            self._put(f"{name}/c/{number}", encode_chunk(values[start : start + chunk], chunk))

    def strings(self, name: str, texts: list[str]) -> None:
        """Add strings as `name/offsets` int64 [n + 1] and `name/bytes` uint8, which every Zarr reader opens."""
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in encoded], out=offsets[1:])
        self.array(f"{name}/offsets", offsets)
        self.array(f"{name}/bytes", np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def seal(self) -> str:
        """Write the metadata, root last, and return the digest over all files by name."""
        for name in sorted(self._metadata, key=lambda key: (-key.count("/"), key)):
            self._put(name, [self._metadata[name]])
        listing = "\n".join(f"{name} {digest}" for name, digest in sorted(self._digests.items()))
        return blake3(listing.encode()).hexdigest()

    def _put(self, name: str, pieces: list[bytes | memoryview]) -> None:
        digest = blake3()
        for piece in pieces:
            digest.update(piece)
        self._digests[name] = digest.hexdigest()
        self._files.put_new(f"{self._key}/{name}", pieces)


def read_array(files: LocalFiles, key: str, length: int | None = None) -> NDArray[Any]:
    """A whole one-dimensional array written by GroupWriter, checksums verified.

    Args:
        files: The store's files.
        key: Key of the array.
        length: How many values it must have, where the caller knows.

    Raises:
        CorruptStoreError: a chunk is missing, short or does not match its checksum, or the length is another.
    """
    where = str(files.path(key))
    try:
        metadata = json.loads(files.get(f"{key}/zarr.json"))
        (found,) = metadata["shape"]
        (chunk,) = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        dtype = np.dtype(metadata["data_type"])
    except (LookupError, TypeError, ValueError) as error:
        raise CorruptStoreError(f"the metadata of {where} is missing or damaged: {error}", hint=_REPAIR) from error
    if length not in (None, found) or found < 0 or chunk < 1:
        raise CorruptStoreError(f"{where} says it has {found} values instead of {length}", hint=_REPAIR)
    parts = []
    for number in range(-(-found // chunk)):
        path = files.path(f"{key}/c/{number}")
        if not path.is_file():
            raise CorruptStoreError(f"{path} is missing", hint=_REPAIR)
        part = decode_chunk(path.read_bytes(), dtype, where=str(path))
        if len(part) != chunk:
            raise CorruptStoreError(f"{path} holds {len(part)} values instead of {chunk}", hint=_REPAIR)
        parts.append(part)
    values: NDArray[Any] = np.concatenate(parts) if parts else np.zeros(0, dtype)
    return values[:found]


def read_strings(files: LocalFiles, key: str) -> list[str]:
    """Strings written by `GroupWriter.strings`."""
    offsets = read_array(files, f"{key}/offsets")
    data = read_array(files, f"{key}/bytes", int(offsets[-1])).tobytes()
    return [data[start:stop].decode() for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
