"""Open shards of this process: the least recently used are closed, so that any number of shards can be read."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OpenShard", "OpenShards"]

# one map holds one descriptor, of which a process usually has 1,024
_MAX_MAPS = 256
# shards of an object store are held in memory
_MAX_BYTES = 512 << 20
_PAGE = mmap.PAGESIZE
_PROBES = 8
_WORTH_PROBING = 64


@dataclass(slots=True)
class OpenShard:
    """A shard as its rows.

    Attributes:
        rows: [chunks, chunk rows, D].
        items: The same rows as opaque items, [chunks, chunk rows]: a whole row is copied at once.
        mapped: The memory map below, None for a copy.
    """

    rows: NDArray[Any]
    items: NDArray[Any]
    mapped: mmap.mmap | None

    def prefetch(self, offsets: NDArray[np.int64], row_bytes: int) -> None:
        """Ask the system to read some rows ahead, all at once, if they are not in memory.

        Page faults come one after another and each waits for the disk; advice given before lets the disk work on all.

        Args:
            offsets: Where the rows begin in the file.
            row_bytes: Bytes of each.
        """
        if self.mapped is None or len(offsets) < _WORTH_PROBING or not _cold(self.rows, offsets):
            return
        first = np.unique(offsets // _PAGE)
        last = (first * _PAGE + _PAGE + row_bytes - 1) // _PAGE
        breaks = np.flatnonzero(first[1:] > last[:-1]) + 1
        for start, stop in itertools.pairwise([0, *breaks.tolist(), len(first)]):
            begin = int(first[start]) * _PAGE
            with contextlib.suppress(OSError):  # advice only
                self.mapped.madvise(
                    mmap.MADV_WILLNEED, begin, min(len(self.mapped), int(last[stop - 1] + 1) * _PAGE) - begin
                )


def _cold(rows: NDArray[Any], offsets: NDArray[np.int64]) -> bool:
    """Whether any of a few of the rows is not in memory (mincore)."""
    if _mincore is None:
        return False
    base = rows.ctypes.data
    answer = ctypes.c_ubyte()
    for offset in offsets[:: max(1, len(offsets) // _PROBES)][:_PROBES].tolist():
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
            with contextlib.suppress(KeyError):  # another thread may have closed it meanwhile
                self._shards.move_to_end(key)
        return found

    def add(self, key: tuple[int, int], shard: OpenShard) -> None:
        """Keep a shard open, closing others as needed."""
        self._shards[key] = shard
        self._bytes += _held(shard)
        while len(self._shards) > 1 and (len(self._shards) > _MAX_MAPS or self._bytes > _MAX_BYTES):
            self._bytes -= _held(self._shards.popitem(last=False)[1])

    def close(self, reader: int | None = None) -> None:
        """Close the shards of one reader, or all."""
        for key in [key for key in list(self._shards) if reader in (None, key[0])]:
            shard = self._shards.pop(key, None)
            if shard is not None:
                self._bytes -= _held(shard)


def _held(shard: OpenShard) -> int:
    return 0 if shard.mapped is not None else shard.rows.nbytes
