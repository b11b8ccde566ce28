"""Compiled loops over rows: normalisation and the canonical score. See `scores.py` for what they mean.

Q queries, G gallery rows, D width, P positives of all queries together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate._compile import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["dot", "normalise_rows", "pair_scores", "score_listed"]


@compiled
def dot(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """The float64 dot product of two rows [D], added in one fixed order.

    Component i is added to running sum i mod 8, those after the last full eight to the first sum; then the sums are
    added pairwise. The product of two float32 values is exact in float64, so a fused multiply-add gives the same bits
    on every processor; eight sums instead of one because additions that wait for each other would take most of the
    time.
    """
    width = x.size
    whole = width - width % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    for i in range(0, whole, 8):
        s0 += np.float64(x[i]) * np.float64(y[i])
        s1 += np.float64(x[i + 1]) * np.float64(y[i + 1])
        s2 += np.float64(x[i + 2]) * np.float64(y[i + 2])
        s3 += np.float64(x[i + 3]) * np.float64(y[i + 3])
        s4 += np.float64(x[i + 4]) * np.float64(y[i + 4])
        s5 += np.float64(x[i + 5]) * np.float64(y[i + 5])
        s6 += np.float64(x[i + 6]) * np.float64(y[i + 6])
        s7 += np.float64(x[i + 7]) * np.float64(y[i + 7])
    for i in range(whole, width):
        s0 += np.float64(x[i]) * np.float64(y[i])
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@compiled
def normalise_rows(raw: NDArray[np.floating], unit: NDArray[np.float32], bad: NDArray[np.uint8]) -> int:
    """Divide the rows of raw [n, D], float32 or float64, by their float64 norms.

    The result goes to unit [n, D], which may be raw itself; rows without direction are not written. bad [n]
    becomes 1 for a row of zero norm and 2 for one whose norm is not finite. Returns how many there are.
    """
    n_bad = 0
    for row in range(raw.shape[0]):
        s0 = s1 = s2 = s3 = 0.0
        width = raw.shape[1]
        whole = width - width % 4
        for i in range(0, whole, 4):
            s0 += np.float64(raw[row, i]) * np.float64(raw[row, i])
            s1 += np.float64(raw[row, i + 1]) * np.float64(raw[row, i + 1])
            s2 += np.float64(raw[row, i + 2]) * np.float64(raw[row, i + 2])
            s3 += np.float64(raw[row, i + 3]) * np.float64(raw[row, i + 3])
        for i in range(whole, width):
            s0 += np.float64(raw[row, i]) * np.float64(raw[row, i])
        norm = np.sqrt((s0 + s1) + (s2 + s3))
        bad[row] = 0
        if norm == 0.0:
            bad[row] = 1
        elif not np.isfinite(norm):
            bad[row] = 2
        if bad[row]:
            n_bad += 1
            continue
        for i in range(width):
            unit[row, i] = np.float32(np.float64(raw[row, i]) / norm)
    return n_bad


@compiled
def pair_scores(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    query_rows: NDArray[np.int64],
    gallery_rows: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> None:
    """Canonical scores [n] of the pairs (query_rows[i], gallery_rows[i])."""
    for pair in range(query_rows.size):
        scores[pair] = dot(query[query_rows[pair]], gallery[gallery_rows[pair]])


@compiled
def score_listed(
    first_query: int,
    last_query: int,
    query: NDArray[np.float32],
    block: NDArray[np.float32],
    first_row: int,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    keys: NDArray[np.float64],
) -> None:
    """Write minus the canonical score of the listed pairs that lie in a gallery block [b, D] to keys [P].

    Pairs of query q are rows[offsets[q]:offsets[q + 1]], ascending.
    """
    for q in range(first_query, last_query):
        listed = rows[offsets[q] : offsets[q + 1]]
        at = np.searchsorted(listed, first_row)
        while at < listed.size and listed[at] < first_row + block.shape[0]:
            keys[offsets[q] + at] = -dot(query[q], block[listed[at] - first_row])
            at += 1
