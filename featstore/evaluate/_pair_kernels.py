"""Compiled loops over tiles of scores: counting them in bins, and picking out those in narrow windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate._compile import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["count_bins", "pick_windows"]


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
def pick_windows(
    tile: NDArray[np.float32],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    above: NDArray[np.int64],
    window: NDArray[np.int32],
    query: NDArray[np.int64],
    row: NDArray[np.int64],
) -> int:
    """For windows [lows[w], highs[w]]: count the scores above each one, and list those inside.

    `lows` is ascending. Entries go to window, query and row as long as there is room; returns how many there are.
    """
    found = 0
    room = len(window)
    for q in range(tile.shape[0]):
        for g in range(tile.shape[1]):
            score = np.float64(tile[q, g])
            if score < lows[0]:
                continue
            for w in range(len(lows)):
                if score > highs[w]:
                    above[w] += 1
                elif score >= lows[w]:
                    if found < room:
                        window[found] = w
                        query[found] = q
                        row[found] = g
                    found += 1
    return found
