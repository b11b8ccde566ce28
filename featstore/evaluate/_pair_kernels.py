"""Compiled loops over tiles of scores: counting them in bins, and collecting those near thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate._compile import compiled
from featstore.evaluate._rank_kernels import BELOW, cell_of, mask_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["collect_tile", "count_bins", "mask_tile"]


@compiled
def count_bins(tile: NDArray[np.float32], bins: NDArray[np.int64]) -> None:
    """Add the scores of a tile to bins of equal width over [−1, 1]; what lies below −1.5 is no score and skipped."""
    scale = np.float32(len(bins) / 2)
    last = len(bins) - 1
    for q in range(tile.shape[0]):
        for g in range(tile.shape[1]):
            score = tile[q, g]
            if score >= -1.5:
                bins[min(max(int((score + np.float32(1)) * scale), 0), last)] += 1


@compiled
def mask_tile(tile: NDArray[np.float32], first_row: int, offsets: NDArray[np.int64], rows: NDArray[np.int32]) -> None:
    """Take listed pairs out of a tile: rows[offsets[q]:offsets[q + 1]] of line q become −∞."""
    none = np.empty(0)
    for q in range(tile.shape[0]):
        mask_rows(tile[q], first_row, rows[offsets[q] : offsets[q + 1]], none)


@compiled
def collect_tile(
    tile: NDArray[np.float32],
    begin: int,
    end: int,
    top: np.float32,
    scale: np.float32,
    cells: NDArray[np.int32],
    queries: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> int:
    """Count the scores of lines [begin, end) in cells [K]; those in negative cells are collected as well.

    Counting starts far below 0 in such cells, so that they stay negative.
    Collected pairs are written to queries and rows, as places in the tile; returns how many there are.
    """
    n = tile.shape[1]
    below = cells.size - BELOW
    last_cell = np.float32(below)
    place = np.empty(n, np.uint16)
    found = 0
    for q in range(begin, end):
        line = tile[q]
        # Two loops: the first is pure arithmetic and vectorises, the second is bound by memory.
        for j in range(n):
            c = cell_of(line[j], top, scale, last_cell)
            place[j] = c if c < below else below + (j & (BELOW - 1))
        for j in range(n):
            at = np.intp(place[j])
            value = cells[at]
            cells[at] = value + np.int32(1)
            if value < 0 and line[j] > -np.inf:
                queries[found] = q
                rows[found] = j
                found += 1
    return found
