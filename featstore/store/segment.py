"""One segment of a feature set, read as strided memory maps, or shard by shard from an object store.

A shard whose index has the regular stride is seen as [chunks, chunk rows, D] with the checksums skipped over; any other
shard is read through the Zarr API, which knows every legal layout.
"""

from __future__ import annotations

import itertools
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError, FeatstoreError, NotFoundError
from featstore.store.chunks import row_chunk
from featstore.store.files import Files
from featstore.store.ranges import ShardLayout, spans_of
from featstore.store.records import VectorSegment
from featstore.store.shards import OpenShard, OpenShards, most_open
from featstore.store.zarr_format import (
    CRC_BYTES,
    REPAIR_HINT,
    check_chunks,
    chunk_key,
    index_bytes,
    read_regular_index,
    shard_bytes,
)

__all__ = ["SegmentReader"]

# up to so many shards, one comparison each beats sorting the rows
_FEW_SHARDS = 16
# a shard in an object store of which a larger part is wanted is fetched whole and kept
_LARGE_PART = 1 / 2
# shards of a batch that are open at once
_TOGETHER = 64

_open_shards = OpenShards()
_ahead = ThreadPoolExecutor(1, thread_name_prefix="featstore-ahead")
_readers = itertools.count()


class SegmentReader:
    """Reads rows of one segment; rows are counted from the first one listed.

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
        self._dtype = dtype.newbyteorder("<")
        self._row_bytes = width * dtype.itemsize
        self._shard_shift = record.shard_rows.bit_length() - 1  # a power of two
        self._known_regular: set[int] = set()
        self._coming: dict[int, Future[OpenShard]] = {}
        self._number = next(_readers)
        weakref.finalize(self, _open_shards.close, self._number)
        self.rows = record.rows

    def __reduce__(self) -> tuple[Any, ...]:
        return (SegmentReader, (self._files, self._key, self._record, self._width, self._dtype))

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as [stop − start, D]: a view of the file inside one chunk, else a copy."""
        size = self._record.chunk_rows
        first = start + self._record.offset
        if first // size == (first + stop - start - 1) // size:
            shard, local = divmod(first, self._record.shard_rows)
            chunk, inside = divmod(local, size)
            return self._shard(shard, in_order=True).rows[chunk, inside : inside + stop - start]
        out = np.empty((stop - start, self._width), dtype=self._dtype)
        position = start
        while position < stop:
            end = min(stop, start - first + ((position + first - start) // size + 1) * size)
            out[position - start : end - start] = self.block(position, end)
            position = end
        return out

    def row(self, number: int) -> NDArray[Any]:
        """One row as a fresh array [D]."""
        shard, first = divmod(number + self._record.offset, self._record.shard_rows)
        chunk, inside = divmod(first, self._record.chunk_rows)
        found = self._is_open(shard)
        if found is None:
            if not self._files.local:
                out = np.empty((1, self._width), dtype=self._dtype)
                self.gather(np.array([number]), out)
                return np.asarray(out[0])
            found = self._shard(shard)
        row: NDArray[Any] = found.rows[chunk, inside].copy()
        return row

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy rows (any order, repeats allowed) into `out` [len(rows), D], of the stored dtype and C-contiguous."""
        if not len(rows):
            return
        rows = rows + self._record.offset
        shards = rows >> self._shard_shift
        local = rows - (shards << self._shard_shift)
        items = out.view(np.dtype((np.void, self._row_bytes))).reshape(-1)
        parts = _parts(shards)
        together = min(_TOGETHER, most_open() // 2)
        for start in range(0, len(parts), together):
            group = parts[start : start + together]
            opened = [self._shard(shard) if self._files.local else self._is_open(shard) for shard, _ in group]
            for found, (_, into) in zip(opened, group, strict=True):
                if found is not None:
                    found.prefetch(local[into])  # for all shards of the group before any is waited for
            for found, (shard, into) in zip(opened, group, strict=True):
                items[into] = self._take(found, shard, local[into])

    def status(self) -> NDArray[np.uint8]:
        """Status of every row, checksums verified."""
        return self._unsharded("status", 1).reshape(-1)

    def input_digests(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Content digests of some rows' inputs, [len(rows), 16], or of every row's; all zero where unknown."""
        if rows is None:
            return self._unsharded("input_digest", 16)
        out = np.empty((len(rows), 16), dtype=np.uint8)
        inside = rows + self._record.offset
        for shard in np.unique(inside >> self._shard_shift).tolist():
            into = inside >> self._shard_shift == shard
            found = self._unsharded_part("input_digest", shard, 16)
            out[into] = found[inside[into] - (shard << self._shard_shift)]
        return out

    def _take(self, found: OpenShard | None, shard: int, local: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of a shard as opaque items; of one in an object store that is not here, without the rest if that is cheaper."""
        if found is None:
            part = self._part(shard, local)
            if part is not None:
                return part
            found = self._shard(shard)
        return found.take(local)

    def _part(self, shard: int, local: NDArray[np.int64]) -> NDArray[Any] | None:
        """Rows of a shard in an object store without the rest of it; None where the whole is the better way."""
        key = self._shard_key(shard)
        rows = self._rows_of(shard)
        expected = self._file_bytes(rows)
        spans = spans_of(ShardLayout(self._row_bytes, self._record.chunk_rows), local)
        if spans.transferred > expected * _LARGE_PART:
            return None
        tail = index_bytes(self._record.chunk_rows, self._record.shard_rows)
        try:
            found, index = spans.fetch(
                self._files, key, None if shard in self._known_regular else (expected - tail, expected)
            )
            if index is not None and not self._regular(memoryview(index), rows, key):
                return None
        except (CorruptStoreError, NotFoundError):  # opening the whole says what is wrong with it
            return None
        self._known_regular.add(shard)
        return found

    def _is_open(self, number: int) -> OpenShard | None:
        return _open_shards.get((self._number, number))

    def _shard(self, number: int, *, in_order: bool = False) -> OpenShard:
        """A whole shard; `in_order` fetches the next one of an object store meanwhile."""
        found = self._is_open(number)
        if found is None:
            coming = self._coming.pop(number, None)
            try:
                found = self._open(number) if coming is None else coming.result()
            except (CorruptStoreError, NotFoundError):
                raise
            except FeatstoreError:  # too many open files: those of other readers can be closed
                if not self._files.local:
                    raise
                _open_shards.close()
                found = self._open(number)
            _open_shards.add((self._number, number), found)
            if in_order and not self._files.local and number + 1 < self._record.shards.stop:
                self._coming = {number + 1: _ahead.submit(self._open, number + 1)}
        return found

    def _open(self, number: int) -> OpenShard:
        key = self._shard_key(number)
        rows = self._rows_of(number)
        expected = self._file_bytes(rows)
        tail = index_bytes(self._record.chunk_rows, self._record.shard_rows)
        try:
            data = self._files.view(key)
        except NotFoundError:
            raise CorruptStoreError(f"{self._files.where(key)} is missing", hint=REPAIR_HINT) from None
        if len(data) < tail:
            raise self._wrong_size(key, len(data), expected)
        if not self._regular(data[len(data) - tail :], rows, key):
            return self._through_zarr(number, rows)
        if len(data) != expected:
            raise self._wrong_size(key, len(data), expected)
        record = self._record
        if not self._files.local:
            check_chunks(data[: expected - tail], record.chunk_rows * self._row_bytes, where=self._files.where(key))
        shape = (-(-rows // record.chunk_rows), record.chunk_rows, self._width)
        return OpenShard(data, shape, self._dtype, CRC_BYTES)

    def _regular(self, index: memoryview, rows: int, key: str) -> bool:
        record = self._record
        where = self._files.where(key)
        return read_regular_index(index, rows, self._row_bytes, record.chunk_rows, record.shard_rows, where=where)

    def _rows_of(self, shard: int) -> int:
        return min(self._record.shard_rows, self._record.group_rows - shard * self._record.shard_rows)

    def _file_bytes(self, rows: int) -> int:
        return shard_bytes(rows, self._row_bytes, self._record.chunk_rows, self._record.shard_rows)

    def _shard_key(self, number: int) -> str:
        return chunk_key(f"{self._key}/features", number, 2)

    def _wrong_size(self, key: str, size: int, expected: int) -> CorruptStoreError:
        return CorruptStoreError(f"{self._files.where(key)} has {size} bytes instead of {expected}", hint=REPAIR_HINT)

    def _through_zarr(self, number: int, rows: int) -> OpenShard:
        from featstore.store.foreign import read_rows  # zarr-python costs a second to import

        start = number * self._record.shard_rows
        values = read_rows(self._files, f"{self._key}/features", start, start + rows)
        shape = (-(-rows // self._record.chunk_rows), self._record.chunk_rows, self._width)
        padded = np.full(shape, np.nan, dtype=self._dtype)
        padded.reshape(-1, self._width)[:rows] = values
        return OpenShard(padded.view(np.uint8).reshape(-1).data, shape, self._dtype, 0)

    def _unsharded(self, name: str, width: int) -> NDArray[np.uint8]:
        record = self._record
        parts = [self._unsharded_part(name, number, width) for number in record.shards]
        skipped = record.offset - record.shards.start * record.shard_rows
        return np.concatenate(parts)[skipped : skipped + self.rows]

    def _unsharded_part(self, name: str, number: int, width: int) -> NDArray[np.uint8]:
        """What a small array has of all rows of a shard, [shard rows, width]."""
        key = chunk_key(f"{self._key}/{name}", number, 2 if width > 1 else 1)
        return row_chunk(self._files, key, self._record.shard_rows, width)


def _parts(shards: NDArray[np.int64]) -> list[tuple[int, Any]]:
    """The shards that occur, each with its positions (a slice where it is the only one)."""
    first, last = int(shards.min()), int(shards.max())
    if first == last:
        return [(first, slice(None))]
    if last - first <= _FEW_SHARDS:
        found = [(shard, np.flatnonzero(shards == shard)) for shard in range(first, last + 1)]
        return [(shard, into) for shard, into in found if len(into)]
    order = np.argsort(shards, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(shards[order])) + 1)
    return [(int(shards[into[0]]), into) for into in groups]
