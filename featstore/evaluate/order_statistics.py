"""Order statistics of scores that stream by: most are counted in cells, those near a wanted one are kept.

K cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featstore.evaluate.sorted_runs import SortedRuns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Order", "StreamedScores", "Window"]

_CELLS = 4096
_COLLECTED = np.iinfo(np.int32).min  # what a cell that touches a window starts from


class Window(NamedTuple):
    """Where a wanted score lies, ends included; ±∞ where that is not known."""

    low: float
    high: float


class Order(NamedTuple):
    """A score, the negatives above it, and those at or above it."""

    score: float
    above: int
    at_least: int


class _Found(NamedTuple):
    cells: NDArray[np.int32]
    queries: NDArray[np.int64]
    rows: NDArray[np.int64]


class StreamedScores:
    """What a pass finds: counts of cells, and the canonical scores of the negatives in cells that touch a window."""

    def __init__(self, windows: Sequence[Window], bound: float) -> None:
        from featstore.evaluate._rank_kernels import BELOW

        edges = [edge for window in windows for edge in window if np.isfinite(edge)] or [0.0]
        size = max(map(abs, edges))
        self._margin = bound + 2.0**-22 * size
        # a cell is much wider than float32 is coarse, and its inverse is finite in float32
        width = max((max(edges) - min(edges) + 4 * self._margin) / (_CELLS - 4), 2.0**-20 * size, 2.0**-100)
        self._top = np.float32(max(edges) + 2 * self._margin + width)
        self._scale = np.float32(1.0 / width)
        # scores below all windows take turns among the cells from the last on, see `count_tile`
        self._start = np.zeros(_CELLS + BELOW - 1, np.int32)
        for window in windows:
            self._start[self._cell(window.high + self._margin) : self._cell(window.low - self._margin) + 1] = _COLLECTED
        self._start[_CELLS:] = self._start[_CELLS - 1]
        self._cells = np.zeros(len(self._start), np.int64)
        self._tally = SortedRuns()

    def collect(self, tile: NDArray[np.float32], begin: int, end: int) -> _Found:
        """Count the scores of some lines of a tile, and list the pairs that have to be scored."""
        from featstore.evaluate import _pair_kernels as kernels

        cells = self._start.copy()
        queries, rows = np.empty((2, (end - begin) * tile.shape[1]), np.int64)
        found = kernels.collect_tile(tile, begin, end, self._top, self._scale, cells, queries, rows)
        return _Found(cells, queries[:found].copy(), rows[:found].copy())

    def add(self, cells: NDArray[np.int32], scores: NDArray[np.float64]) -> None:
        """Take what was found in a tile."""
        self._cells += np.maximum(cells, 0)
        self._tally.add(scores)

    def accepted(self, threshold: float) -> int:
        """Negatives that a threshold inside a window accepts."""
        return self._above(threshold) + self._tally.at_least(threshold)

    def order(self, rank: int, window: Window) -> Order | None:
        """The negative of a rank (1 is the greatest); None when it lies outside its window."""
        above = self._above(window.high)
        score = self._tally.greatest(rank - above)
        if score is None or not window.low <= score <= window.high:
            return None
        return Order(score, above + self._tally.above(score), above + self._tally.at_least(score))

    def _above(self, score: float) -> int:
        """Negatives in cells above one that touches a window; all collected scores come on top."""
        return int(self._cells[: self._cell(score)].sum())

    def _cell(self, score: float) -> int:
        if not np.isfinite(score):
            return 0 if score > 0 else _CELLS - 1
        return int(min(max((self._top - np.float32(score)) * self._scale, np.float32(0)), np.float32(_CELLS - 1)))
