"""One segment of a feature set on local disk, read as strided memory maps.

A shard whose index has the regular stride is mapped and seen as [chunks, chunk rows, D] with the checksums skipped over;
any other shard is read through the Zarr API, which knows every legal layout.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError
from featstore.store.files import LocalFiles
from featstore.store.records import VectorSegment
from featstore.store.zarr_format import CRC_BYTES, decode_chunk, index_bytes, read_regular_index, shard_bytes

__all__ = ["SegmentReader"]

# one map holds one descriptor, of which a process usually has 1,024
_OPEN_MAPS = 256
# up to so many shards, one comparison each beats sorting the rows
_FEW_SHARDS = 16
_REPAIR = "restore the file from a copy, or remove the set and make it again"


class SegmentReader:
    """Reads rows of one segment; rows are counted from the segment's start.

    Args:
        files: The store's files.
        key: Key of the segment's group.
        record: Its entry in the version.
        width: Components of a row.
        dtype: Stored dtype.
    """

    def __init__(self, files: LocalFiles, key: str, record: VectorSegment, width: int, dtype: np.dtype[Any]) -> None:
        self._folder: Path = files.path(key)
        self._record = record
        self._width = width
        self._dtype = dtype.newbyteorder("<")
        self._maps: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self.rows = record.stop - record.start

    def __reduce__(self) -> tuple[Any, ...]:
        root = self._folder
        return (_reopen, (root, self._record, self._width, self._dtype))

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as [stop − start, D]: a view of the file inside one chunk, else a copy."""
        size = self._record.chunk_rows
        if start // size == (stop - 1) // size:
            shard, first = divmod(start, self._record.shard_rows)
            chunk, inside = divmod(first, size)
            return self._shard(shard)[chunk, inside : inside + stop - start]
        out = np.empty((stop - start, self._width), dtype=self._dtype)
        position = start
        while position < stop:
            end = min(stop, (position // size + 1) * size)
            out[position - start : end - start] = self.block(position, end)
            position = end
        return out

    def row(self, number: int) -> NDArray[Any]:
        """One row as a fresh array [D]."""
        shard, first = divmod(number, self._record.shard_rows)
        chunk, inside = divmod(first, self._record.chunk_rows)
        row: NDArray[Any] = self._shard(shard)[chunk, inside].copy()
        return row

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy rows (any order, repeats allowed) into `out` [len(rows), D], of the stored dtype and C-contiguous."""
        if not len(rows):
            return
        shards, local = np.divmod(rows, self._record.shard_rows)
        chunk, inside = np.divmod(local, self._record.chunk_rows)
        # a whole row as one opaque item is copied at once; as D numbers it costs a fifth more
        items = out.view(np.dtype((np.void, out.shape[1] * out.itemsize))).reshape(-1)
        first, last = int(shards.min()), int(shards.max())
        if last - first <= _FEW_SHARDS:
            parts = [np.flatnonzero(shards == shard) for shard in range(first, last + 1)]
        else:
            order = np.argsort(shards, kind="stable")
            parts = np.split(order, np.flatnonzero(np.diff(shards[order])) + 1)
        for part in parts:
            if len(part):
                source = self._rows(int(shards[part[0]]))
                items[part] = source[chunk[part], inside[part]]

    def status(self) -> NDArray[np.uint8]:
        """Status of every row, checksums verified."""
        return self._unsharded("status", np.dtype("u1"), 1).reshape(-1)

    def input_digests(self) -> NDArray[np.uint8]:
        """Content digest of every row's input, [rows, 16]; all zero where unknown."""
        return self._unsharded("input_digest", np.dtype("u1"), 16)

    def _rows(self, shard: int) -> NDArray[Any]:
        """A shard as opaque rows [chunks, chunk rows]."""
        row = np.dtype((np.void, self._width * self._dtype.itemsize))
        return self._shard(shard).view(row)[..., 0]

    def _shard(self, number: int) -> NDArray[Any]:
        """A shard as [chunks, chunk rows, D]."""
        view = self._maps.get(number)
        if view is None:
            view = self._open(number)
            self._maps[number] = view
            if len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
        else:
            self._maps.move_to_end(number)
        return view

    def _open(self, number: int) -> NDArray[Any]:
        record = self._record
        path = self._folder / "features" / "c" / str(number) / "0"
        rows = min(record.shard_rows, self.rows - number * record.shard_rows)
        row_bytes = self._width * self._dtype.itemsize
        expected = shard_bytes(rows, row_bytes, record.chunk_rows, record.shard_rows)
        try:
            with path.open("rb") as stream:
                size = path.stat().st_size
                tail = index_bytes(record.chunk_rows, record.shard_rows)
                if size < tail:
                    raise CorruptStoreError(f"{path} has {size} bytes instead of {expected}", hint=_REPAIR)
                # a private map is writable, so torch takes it without a warning; nothing written reaches the file
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise CorruptStoreError(f"{path} is missing", hint=_REPAIR) from None
        index = memoryview(mapped)[size - tail :]
        regular = read_regular_index(index, rows, row_bytes, record.chunk_rows, record.shard_rows, where=str(path))
        if not regular:
            return self._through_zarr(number, rows)
        if size != expected:
            raise CorruptStoreError(f"{path} has {size} bytes instead of {expected}", hint=_REPAIR)
        return np.ndarray(
            (-(-rows // record.chunk_rows), record.chunk_rows, self._width),
            dtype=self._dtype,
            buffer=mapped,
            strides=(record.chunk_rows * row_bytes + CRC_BYTES, row_bytes, self._dtype.itemsize),
        )

    def _through_zarr(self, number: int, rows: int) -> NDArray[Any]:
        import zarr  # only for shards that another writer laid out; costs a second to import

        array = zarr.open_array(str(self._folder / "features"), mode="r", zarr_format=3)
        start = number * self._record.shard_rows
        try:
            values = np.asarray(array[start : start + rows])
        except ValueError as error:
            raise CorruptStoreError(
                f"shard {number} of {self._folder} cannot be read: {error}", hint=_REPAIR
            ) from error
        chunks = -(-rows // self._record.chunk_rows)
        padded = np.full((chunks * self._record.chunk_rows, self._width), np.nan, dtype=self._dtype)
        padded[:rows] = values
        return padded.reshape(chunks, self._record.chunk_rows, self._width)

    def _unsharded(self, name: str, dtype: np.dtype[Any], width: int) -> NDArray[np.uint8]:
        parts = []
        for number in range(-(-self.rows // self._record.shard_rows)):
            path = self._folder / name / "c" / str(number)
            path = path / "0" if width > 1 else path
            if not path.is_file():
                raise CorruptStoreError(f"{path} is missing", hint=_REPAIR)
            part = decode_chunk(path.read_bytes(), dtype, where=str(path)).reshape(-1, width)
            if len(part) != self._record.shard_rows:
                raise CorruptStoreError(
                    f"{path} holds {len(part)} rows instead of {self._record.shard_rows}", hint=_REPAIR
                )
            parts.append(part)
        return np.concatenate(parts)[: self.rows]


def _reopen(folder: Path, record: VectorSegment, width: int, dtype: np.dtype[Any]) -> SegmentReader:
    return SegmentReader(LocalFiles(folder), "", record, width, dtype)
