"""Whole small arrays of a segment (ids, columns): written chunk by chunk, read back in one piece with every checksum."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError, NotFoundError
from featstore.store.files import Files
from featstore.store.zarr_format import CRC_BYTES, array_metadata, chunk_key, decode_chunk, encode_chunk, group_metadata

__all__ = ["GroupWriter", "StoredArray", "array_files", "chunk_values", "read_array", "read_strings"]

_CHUNK_BYTES = 2 << 20
_FEW_CHUNKS = 16  # an array of so few chunks is searched whole
_REPAIR = "`featstore repair --from STORE` takes it from a second copy of the store"


class GroupWriter:
    """Writes one Zarr group of one-dimensional arrays under a fresh name, metadata last.

    Args:
        files: The store's files.
        key: Key of the group; nothing may be there yet.
    """

    def __init__(self, files: Files, key: str) -> None:
        self._files = files
        self._key = key
        self._metadata: dict[str, bytes] = {"zarr.json": group_metadata()}
        self._digests: dict[str, str] = {}

    def array(self, name: str, values: NDArray[Any]) -> None:
        """Add an array; `name` may hold '/' (the groups between are added too)."""
        for depth in range(1, name.count("/") + 1):
            self._metadata["/".join([*name.split("/")[:depth], "zarr.json"])] = group_metadata()
        for file, pieces in array_files(name, values):
            if file.endswith("zarr.json"):
                self._metadata[file] = b"".join(pieces)
            else:
                self._put(file, pieces)

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


def array_files(
    name: str, values: NDArray[Any], chunk_bytes: int = _CHUNK_BYTES
) -> Iterator[tuple[str, list[bytes | memoryview]]]:
    """The files of a one-dimensional array as (key, pieces), its metadata last; the same bytes for the same values."""
    chunk = chunk_values(len(values), values.dtype, chunk_bytes)
    for number, start in enumerate(range(0, len(values), chunk)):
        yield chunk_key(name, number), encode_chunk(values[start : start + chunk], chunk)
    yield f"{name}/zarr.json", [array_metadata(values.shape, values.dtype, (chunk,))]


def chunk_values(length: int, dtype: np.dtype[Any], chunk_bytes: int = _CHUNK_BYTES) -> int:
    """How many values a chunk of a one-dimensional array holds."""
    return max(1, min(length, chunk_bytes // dtype.itemsize))


class StoredArray:
    """A one-dimensional array written by GroupWriter, read chunk by chunk when asked for, each chunk once.

    Args:
        files: The store's files.
        key: Key of the array.
        length: How many values it must have, where the caller knows.
        mapped: Look at chunks of this machine where they are, without holding them open and without reading all of one for
            its checksum: for searches of long arrays whose findings are confirmed elsewhere.

    Raises:
        CorruptStoreError: the metadata is missing or damaged, or the length is another. Reading raises it for a chunk that
            is missing, short or does not match its checksum.
    """

    def __init__(self, files: Files, key: str, length: int | None = None, *, mapped: bool = False) -> None:
        self._files = files
        self._key = key
        self._mapped = mapped and files.local
        where = files.where(key)
        try:
            metadata = json.loads(files.get(f"{key}/zarr.json"))
            (found,) = metadata["shape"]
            self.length = int(found)
            (chunk,) = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            self._chunk = int(chunk)
            self.dtype = np.dtype(metadata["data_type"])
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise CorruptStoreError(f"the metadata of {where} is missing or damaged: {error}", hint=_REPAIR) from error
        if length not in (None, self.length) or self.length < 0 or self._chunk < 1:
            raise CorruptStoreError(f"{where} says it has {self.length} values instead of {length}", hint=_REPAIR)
        self._chunks: dict[int, NDArray[Any]] = {}
        self._whole: NDArray[Any] | None = None

    def __len__(self) -> int:
        return int(self.length)

    def __getitem__(self, position: int) -> Any:
        if self._whole is not None:
            return self._whole[position]
        chunk, inside = divmod(position, self._chunk)
        return self._load(chunk)[inside]

    def span(self, start: int, stop: int) -> NDArray[Any]:
        """Values [start, stop), a view where they lie in one chunk."""
        if self._whole is not None or stop <= start:
            return self.whole()[start:stop]
        first, last = start // self._chunk, (stop - 1) // self._chunk
        if first == last:
            return self._load(first)[start - first * self._chunk : stop - first * self._chunk]
        parts = np.concatenate([self._load(chunk) for chunk in range(first, last + 1)])
        return parts[start - first * self._chunk : stop - first * self._chunk]

    def whole(self) -> NDArray[Any]:
        """All values."""
        if self._whole is None:
            parts = [self._load(chunk) for chunk in range(self._n_chunks)]
            self._whole = np.concatenate([*parts, np.zeros(0, self.dtype)])[: len(self)]
            self._chunks.clear()
        return self._whole

    def find(self, value: Any) -> int:
        """First position of an ascending array whose value is not below `value`; reads a few chunks of a long one."""
        chunks = self._n_chunks
        if self._whole is not None or chunks <= _FEW_CHUNKS:
            return int(np.searchsorted(self.whole(), value))
        # the last chunk whose first value lies below; everything before it is below too
        low, high = 0, chunks
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._load(middle)[0] < value else (low, middle)
        start = low * self._chunk
        return start + int(np.searchsorted(self._load(low)[: self.length - start], value))

    def find_many(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """For each of some ascending values the first position of this ascending array whose value is not below it."""
        positions = np.zeros(len(values), dtype=np.int64)
        for chunk in range(self._n_chunks):
            here = self._load(chunk)[: self.length - chunk * self._chunk]
            first = int(np.searchsorted(values, here[0], side="right"))  # values from here on lie in it or behind it
            positions[first:] = chunk * self._chunk + np.searchsorted(here, values[first:])
        return positions

    @property
    def _n_chunks(self) -> int:
        return -(-self.length // self._chunk)

    def _load(self, chunk: int) -> NDArray[Any]:
        found = self._chunks.get(chunk)
        if found is None:
            key = chunk_key(self._key, chunk)
            where = self._files.where(key)
            try:
                data = self._files.view(key) if self._mapped else self._files.get(key)
            except NotFoundError:
                raise CorruptStoreError(f"{where} is missing", hint=_REPAIR) from None
            size = self._chunk * self.dtype.itemsize + CRC_BYTES
            if len(data) != size:
                raise CorruptStoreError(f"{where} has {len(data)} bytes instead of {size}", hint=_REPAIR)
            if self._mapped:
                return np.frombuffer(data[:-CRC_BYTES], dtype=self.dtype.newbyteorder("<"))
            found = self._chunks[chunk] = decode_chunk(data, self.dtype, where=where)
        return found


def read_array(files: Files, key: str, length: int | None = None) -> NDArray[Any]:
    """A whole one-dimensional array, checksums verified; see `StoredArray`."""
    return StoredArray(files, key, length).whole()


def read_strings(files: Files, key: str) -> list[str]:
    """Strings written by `GroupWriter.strings`."""
    offsets = read_array(files, f"{key}/offsets")
    data = read_array(files, f"{key}/bytes", int(offsets[-1])).tobytes()
    return [data[start:stop].decode() for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
