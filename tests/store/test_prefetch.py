"""Rows that are not in memory are asked for all at once, before the first of them is waited for."""

import mmap

import numpy as np
import pytest

from featstore.store import shards
from featstore.store.shards import OpenShard

CHUNKS, CHUNK_ROWS, WIDTH, GAP = 50, 64, 300, 4
PAGE = mmap.PAGESIZE


class Advised:
    """A map that only notes what is asked for."""

    def __init__(self, size):
        self.size = size
        self.pages = []

    def __len__(self):
        return self.size

    def madvise(self, advice, start, length):
        assert advice == mmap.MADV_WILLNEED
        self.pages += range(start // PAGE, -(-(start + length) // PAGE))


@pytest.fixture
def shard(monkeypatch):
    monkeypatch.setattr(shards, "_cold", lambda *_: True)
    size = CHUNKS * (CHUNK_ROWS * WIDTH * 4 + GAP)
    made = OpenShard(memoryview(bytearray(size)), (CHUNKS, CHUNK_ROWS, WIDTH), np.dtype("f4"), GAP)
    made.mapped = Advised(size)
    return made


@pytest.mark.parametrize("count", [2, 13, 64, 2000])
def test_exactly_the_pages_of_the_rows_are_asked_for_once(shard, count):
    rows = np.random.default_rng(count).integers(0, CHUNKS * CHUNK_ROWS, count)
    shard.prefetch(rows)
    base = shard.rows.ctypes.data
    wanted = set()
    for row in rows.tolist():
        start = shard.rows[row // CHUNK_ROWS, row % CHUNK_ROWS].ctypes.data - base
        wanted.update(range(start // PAGE, (start + WIDTH * 4 - 1) // PAGE + 1))
    asked = shard.mapped.pages
    assert len(set(asked)) == len(asked)
    assert wanted <= set(asked)
    between = {page + step for page in wanted for step in (1, 2)}  # near rows are read in one go
    assert set(asked) <= wanted | between


def test_rows_found_in_memory_are_trusted_for_a_while(shard, monkeypatch):
    answers = iter([False, True])
    monkeypatch.setattr(shards, "_cold", lambda *_: next(answers))
    for _ in range(1 + shards._TRUSTED):
        shard.prefetch(np.arange(2))
    assert shard.mapped.pages == []
    shard.prefetch(np.arange(2))
    assert shard.mapped.pages == [0]
