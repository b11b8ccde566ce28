"""Single chunks of a segment, each with its checksum checked: for whoever copies rows and must not copy damage."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError, NotFoundError
from featstore.store.files import Files
from featstore.store.records import VectorSegment
from featstore.store.zarr_format import CRC_BYTES, REPAIR_HINT, chunk_key, decode_chunk

__all__ = ["CheckedChunks", "row_chunk"]

_KEPT = 32  # chunks of about 2 MiB each


class CheckedChunks:
    """The chunks of one segment in the regular layout; rows are those of the whole group.

    Args:
        files: The store's files.
        key: Key of the segment's group.
        record: Its entry in the version.
        width: Components of a row.
        dtype: Stored dtype.
    """

    def __init__(self, files: Files, key: str, record: VectorSegment, width: int, dtype: np.dtype[Any]) -> None:
        self._files = files
        self._key = key
        self._record = record
        self._width = width
        self._dtype = dtype
        self._chunk = lru_cache(_KEPT)(self._read_chunk)
        self._digests = lru_cache(_KEPT)(self._read_digests)

    def features(self, rows: NDArray[np.int64], out: NDArray[Any]) -> NDArray[np.bool_]:
        """Copy rows into `out` [len(rows), D], cast to its dtype; which of them are in chunks without damage, [len(rows)]."""
        good = np.zeros(len(rows), dtype=bool)
        numbers, inside = np.divmod(rows, self._record.chunk_rows)
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            try:
                chunk = self._chunk(number)
            except (CorruptStoreError, NotFoundError):
                continue
            with np.errstate(over="ignore"):  # what does not fit is refused when it is published
                out[here] = chunk[inside[here]]
            good[here] = True
        return good

    def digests(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Input digests of rows, [len(rows), 16]; zero where the chunk is damaged."""
        found = np.zeros((len(rows), 16), dtype=np.uint8)
        shards, inside = np.divmod(rows, self._record.shard_rows)
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            try:
                found[here] = self._digests(shard)[inside[here]]
            except (CorruptStoreError, NotFoundError):
                continue
        return found

    def _read_chunk(self, number: int) -> NDArray[Any]:
        """Chunk `number` of the group, counted over its shards, [chunk rows, D]."""
        per_shard = self._record.shard_rows // self._record.chunk_rows
        shard, position = divmod(number, per_shard)
        key = chunk_key(f"{self._key}/features", shard, 2)
        where = f"chunk {position} of {self._files.where(key)}"
        size = self._record.chunk_rows * self._width * self._dtype.itemsize + CRC_BYTES
        [data] = self._files.get_ranges(key, [(position * size, (position + 1) * size)])
        if len(data) != size:
            raise CorruptStoreError(f"{where} is cut off")
        return decode_chunk(data, self._dtype, where=where).reshape(-1, self._width)

    def _read_digests(self, shard: int) -> NDArray[np.uint8]:
        return row_chunk(self._files, chunk_key(f"{self._key}/input_digest", shard, 2), self._record.shard_rows, 16)


def row_chunk(files: Files, key: str, rows: int, width: int) -> NDArray[np.uint8]:
    """A chunk of `status` or `input_digest` as [rows, width], padding included.

    Raises:
        CorruptStoreError: it is missing, or not what was written.
    """
    where = files.where(key)
    try:
        values = decode_chunk(files.get(key), np.dtype("u1"), where=where)
    except NotFoundError:
        raise CorruptStoreError(f"{where} is missing", hint=REPAIR_HINT) from None
    if len(values) != rows * width:
        raise CorruptStoreError(f"{where} holds {len(values)} bytes instead of {rows * width}", hint=REPAIR_HINT)
    return values.reshape(rows, width)
