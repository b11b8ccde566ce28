"""Open shards of this process: the least recently used are closed, so that any number of shards can be read."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import resource
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OpenShard", "OpenShards", "most_open"]

# one map holds one descriptor, of which a process usually has 1,024
_MAX_MAPS = 256
_SHARE_OF_DESCRIPTORS = 4  # a quarter; the rest is for blocks that callers keep, and for everything else
# shards of an object store are held in memory
_MAX_BYTES = 512 << 20
_PAGE = mmap.PAGESIZE
_ROWS_PER_PROBE = 8
_MOST_PROBES = 8
_NEAR_PAGES = 2  # between two rows, that cost less to read along than another request
_TRUSTED = 15  # further reads of a shard whose rows were found in memory


class OpenShard:
    """A shard as its rows.

    Args:
        data: Its bytes: chunks of whole rows, `gap` bytes between them.
        shape: (chunks, rows of a chunk, D).
        dtype: Of the values.
        gap: Bytes between two chunks (a checksum, or nothing).

    Attributes:
        rows: [chunks, chunk rows, D], a view of the bytes.
        mapped: The memory map below, None for bytes held in memory.
    """

    def __init__(self, data: memoryview, shape: tuple[int, int, int], dtype: np.dtype[Any], gap: int) -> None:
        chunks, self._chunk_rows, width = shape
        self._row_bytes = width * dtype.itemsize
        self._gap = gap
        stride = self._chunk_rows * self._row_bytes + gap
        self.rows: NDArray[Any] = np.ndarray(
            shape, dtype=dtype, buffer=data, strides=(stride, self._row_bytes, dtype.itemsize)
        )
        self.mapped = data.obj if isinstance(data.obj, mmap.mmap) else None
        # every place where a row may begin, as opaque items that overlap: one index then finds a row, and a whole row is
        # copied at once, which is much faster than (chunk, row) indices into numbers
        self._step = 4 if self._row_bytes % 4 == 0 and gap % 4 == 0 else 2
        places = (chunks * stride - gap - self._row_bytes) // self._step + 1
        item = np.dtype((np.void, self._row_bytes))
        self._items: NDArray[Any] = np.ndarray((places,), dtype=item, buffer=data, strides=(self._step,))
        self._trusted = 0

    def take(self, local: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of the shard, in the order given, as opaque items [len(local)]."""
        found: NDArray[Any] = self._items[self._offsets(local) // self._step]
        return found

    def prefetch(self, local: NDArray[np.int64]) -> None:
        """Ask the system to read rows ahead, all at once, if they are not in memory.

        Page faults come one after another and each waits for the disk; advice given before lets the disk work on all.
        """
        if self.mapped is None or len(local) < 2:
            return
        if self._trusted:
            self._trusted -= 1
            return
        offsets = self._offsets(local)
        if not _cold(self.rows, offsets):
            self._trusted = _TRUSTED
            return
        offsets.sort()
        first, last = offsets // _PAGE, (offsets + self._row_bytes - 1) // _PAGE
        breaks = np.flatnonzero(first[1:] > last[:-1] + _NEAR_PAGES) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(first)]):
            begin = int(first[start]) * _PAGE
            end = min(len(self.mapped), (int(last[stop - 1]) + 1) * _PAGE)
            with contextlib.suppress(OSError):  # advice only
                self.mapped.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def _offsets(self, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows begin."""
        return local * self._row_bytes + local // self._chunk_rows * self._gap


def _cold(rows: NDArray[Any], offsets: NDArray[np.int64]) -> bool:
    """Whether any of a few of the rows is not in memory (mincore)."""
    if _mincore is None:
        return False
    base = rows.ctypes.data
    answer = ctypes.c_ubyte()
    probes = min(_MOST_PROBES, -(-len(offsets) // _ROWS_PER_PROBE))
    for offset in offsets[:: len(offsets) // probes][:probes].tolist():
        page = (base + offset) // _PAGE * _PAGE
        if _mincore(page, 1, ctypes.byref(answer)) == 0 and not answer.value & 1:
            return True
    return False


def _find_mincore() -> Any:
    function = getattr(ctypes.CDLL(None), "mincore", None)
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return function


_mincore = _find_mincore() if hasattr(mmap, "MADV_WILLNEED") else None


class OpenShards:
    """The open shards of all readers of this process, by (reader, shard)."""

    def __init__(self) -> None:
        self._shards: OrderedDict[tuple[int, int], OpenShard] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[int, int]) -> OpenShard | None:
        """An open shard, which becomes the most recently used."""
        found = self._shards.get(key)
        if found is not None:
            try:  # noqa: SIM105 - suppress() costs as much as the whole lookup
                self._shards.move_to_end(key)
            except KeyError:  # another thread has just closed it, but we hold it
                pass
        return found

    def add(self, key: tuple[int, int], shard: OpenShard) -> None:
        """Keep a shard open, closing others as needed."""
        self._shards[key] = shard
        self._bytes += _held(shard)
        while len(self._shards) > 1 and (len(self._shards) > most_open() or self._bytes > _MAX_BYTES):
            self._bytes -= _held(self._shards.popitem(last=False)[1])

    def close(self, reader: int | None = None) -> None:
        """Close the shards of one reader, or all."""
        for key in [key for key in list(self._shards) if reader in (None, key[0])]:
            shard = self._shards.pop(key, None)
            if shard is not None:
                self._bytes -= _held(shard)


def _held(shard: OpenShard) -> int:
    return 0 if shard.mapped is not None else shard.rows.nbytes


def most_open() -> int:
    """How many shards may be open at once: no more than the process has file descriptors to spare."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_MAPS if limit == resource.RLIM_INFINITY else max(2, min(_MAX_MAPS, limit // _SHARE_OF_DESCRIPTORS))
