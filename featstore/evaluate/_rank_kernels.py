"""Compiled loops that count how many gallery scores lie above, and tie with, each positive (`ranks.py` tells the whole).

Q queries, G gallery rows, D width, P positives of all queries together, K cells. A *key* is minus a score, so that
ascending keys are descending scores. The positives of query q stand at offsets[q]:offsets[q + 1], ascending by key,
ties by gallery row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate._compile import compiled
from featstore.evaluate._score_kernels import dots

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BEFORE",
    "EQUAL",
    "GREATER",
    "cell_of",
    "count_tile",
    "finish",
    "mask_rows",
    "order_positives",
    "place_cells",
]

# Rows of steps [3, P].
GREATER, EQUAL, BEFORE = 0, 1, 2

# Most scores lie below every positive. They take turns among this many last cells, because increments of one cell wait for
# each other; a power of two.
BELOW = 16
# So many scores are counted in 16 bits, which are half the memory, before they are added to their cells.
_STRETCH = 1 << 14
_NEAR = -(1 << 15)  # what such a counter starts from in a cell that a positive is near: it stays negative
# Rounding a float64 to float32 moves it by at most 2^-24 of its size; no score is larger than the product of the norms.
_CELL_SLACK = 2.0**-23


@compiled
def cell_of(score: np.float32, top: np.float32, scale: np.float32, last: np.float32) -> int:
    """The cell of a score, 0 at the top.

    A subtraction, a product and a clamp: each is monotone under rounding, and none can be fused with another.
    """
    place = (top - score) * scale
    return np.int32(min(max(place, np.float32(0.0)), last))  # type: ignore[return-value]  # 32 bits vectorise


@compiled
def _lower(keys: NDArray[np.float64], first: int, last: int, key: float) -> int:
    """The first index in [first, last) whose key is at least `key`."""
    while first < last:
        middle = (first + last) // 2
        if keys[middle] < key:
            first = middle + 1
        else:
            last = middle
    return first


@compiled
def _lower_nearby(keys: NDArray[np.float64], first: int, last: int, key: float) -> int:
    """As `_lower`, when the answer is expected close to `first`: strides that double, then halves."""
    stride = 1
    while first + stride <= last and keys[first + stride - 1] < key:
        first += stride
        stride *= 2
    return _lower(keys, first, min(first + stride - 1, last), key)


@compiled
def _upper_nearby(keys: NDArray[np.float64], first: int, last: int, key: float) -> int:
    """The first index in [first, last) whose key is greater than `key`, expected close to `first`."""
    stride = 1
    while first + stride <= last and keys[first + stride - 1] <= key:
        first += stride
        stride *= 2
    last = min(first + stride - 1, last)
    while first < last:
        middle = (first + last) // 2
        if keys[middle] <= key:
            first = middle + 1
        else:
            last = middle
    return first


@compiled
def order_positives(offsets: NDArray[np.int64], rows: NDArray[np.int32], keys: NDArray[np.float64]) -> None:
    """Sort each query's positives by key; they come ordered by row, which a stable sort keeps for ties."""
    for q in range(offsets.size - 1):
        first, last = offsets[q], offsets[q + 1]
        order = np.argsort(keys[first:last], kind="mergesort")
        rows[first:last] = rows[first:last][order]
        keys[first:last] = keys[first:last][order]


@compiled
def place_cells(
    offsets: NDArray[np.int64],
    keys: NDArray[np.float64],
    limits: NDArray[np.float64],
    bounds: NDArray[np.float64],
    top: NDArray[np.float32],
    scale: NDArray[np.float32],
    cells: NDArray[np.int32],
) -> None:
    """Spread each query's K cells over the range of its positives, and mark those that lie near a positive.

    No score of a query exceeds its limit [Q] in size, no GEMM score lies further from the canonical one than its bound
    [Q]. Fills top [Q], scale [Q] and cells [Q, K]. A cell that some positive is near holds −1 − i, where i is the first
    such positive of the query; the others start to count at 0. Counting is right for any placement, because a score compares
    with a positive by its cell only when no positive is near that cell; the placement decides how many scores need a
    closer look.
    """
    n_cells = cells.shape[1]
    below = n_cells - BELOW
    last = np.float32(below)
    for q in range(offsets.size - 1):
        cells[q, :] = 0
        if offsets[q] == offsets[q + 1]:
            continue
        reach = bounds[q] + _CELL_SLACK * limits[q]
        highest = -keys[offsets[q]] + 2 * reach
        lowest = -keys[offsets[q + 1] - 1] - 2 * reach
        # The first cell and those below stay free of positives. A cell is much wider than float32 is coarse, and its
        # inverse is finite in float32.
        width = max((highest - lowest) / (below - 2), 2.0**-20 * limits[q], 2.0**-100)
        top[q] = np.float32(highest + width)
        scale[q] = np.float32(1.0 / width)
        for p in range(offsets[q], offsets[q + 1]):
            begin = cell_of(np.float32(-keys[p] + reach), top[q], scale[q], last)
            end = cell_of(np.float32(-keys[p] - reach), top[q], scale[q], last)
            for c in range(begin, n_cells if end == below else end + 1):
                if cells[q, c] == 0:
                    cells[q, c] = offsets[q] - p - 1


@compiled
def mask_rows(line: NDArray[np.float32], first_row: int, rows: NDArray[np.int32], keys: NDArray[np.float64]) -> float:
    """Take rows out of a line of scores; where they have keys, returns the largest |GEMM − canonical| among them."""
    worst = 0.0
    for i in range(rows.size):
        at = rows[i] - first_row
        if 0 <= at < line.size:
            if keys.size:
                worst = max(worst, abs(np.float64(line[at]) + keys[i]))
            line[at] = -np.inf
    return worst


@compiled
def _resolve(
    line: NDArray[np.float32],
    query: NDArray[np.float32],
    q: int,
    block: NDArray[np.float32],
    first_row: int,
    near: NDArray[np.int32],
    n_near: int,
    from_positive: NDArray[np.int32],
    last: int,
    bound: float,
    rows: NDArray[np.int32],
    keys: NDArray[np.float64],
    steps: NDArray[np.int32],
) -> None:
    """Compare the scores line[near[:n_near]] of a query with its positives from `from_positive` up to `last`.

    Positives before `from_positive` lie above. Both lists are overwritten: those within the bound of a positive are
    collected first, so that their canonical scores follow each other. A bound of 0 says that GEMM scores are canonical.
    """
    n_close = 0
    for i in range(n_near):
        j = near[i]
        key = -float(line[j])
        low = _lower_nearby(keys, from_positive[i], last, key - bound)
        if low < last:
            if keys[low] <= key + bound:
                near[n_close] = j
                from_positive[n_close] = low
                n_close += 1
            else:
                steps[GREATER, low] += 1
    exact = np.empty(n_close)
    if bound > 0.0:
        dots(query, q, block, 0, near[:n_close], exact)
    for i in range(n_close):
        j = near[i]
        key = -float(line[j])
        tied, high = from_positive[i], last
        if bound > 0.0:
            high = _upper_nearby(keys, tied, last, key + bound)
            key = -exact[i]
            tied = _lower(keys, tied, high, key)
        low = _upper_nearby(keys, tied, high, key)
        if tied < low:
            # Tied positives are ordered by row: those with a higher row are ranked behind this one.
            behind = tied
            while behind < low and rows[behind] < first_row + j:
                behind += 1
            steps[EQUAL, tied] += 1
            if behind < low:
                steps[BEFORE, behind] += 1
            if low < last:
                steps[EQUAL, low] -= 1
                steps[BEFORE, low] -= behind < low
        if low < last:
            steps[GREATER, low] += 1


@compiled
def count_tile(
    tile: NDArray[np.float32],
    first_query: int,
    begin: int,
    end: int,
    query: NDArray[np.float32],
    block: NDArray[np.float32],
    first_row: int,
    bounds: NDArray[np.float64],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    keys: NDArray[np.float64],
    excluded_offsets: NDArray[np.int64],
    excluded_rows: NDArray[np.int32],
    top: NDArray[np.float32],
    scale: NDArray[np.float32],
    cells: NDArray[np.int32],
    steps: NDArray[np.int32],
) -> float:
    """Count the scores of one tile: queries [first_query + begin, first_query + end) against a gallery block [b, D].

    tile [.., b] holds float32 GEMM scores, row 0 is `first_query`; entries of positives and excluded rows are
    overwritten. cells [Q, K] count scores; the running sums of steps [3, P] over a query's positives are the counts
    (`finish`). Returns the largest |GEMM − canonical| − bound seen on a positive, which must not exceed 0.
    """
    n_cells = cells.shape[1]
    below = n_cells - BELOW
    last_cell = np.float32(below)
    length = min(block.shape[0], _STRETCH)
    place = np.empty(length, np.uint16)
    near = np.empty(length, np.int32)
    from_positive = np.empty(length, np.int32)
    few = np.empty(n_cells, np.int16)
    worst = 0.0
    for t in range(begin, end):
        q = first_query + t
        first, last = offsets[q], offsets[q + 1]
        if first == last:
            continue
        line = tile[t]
        worst = max(worst, mask_rows(line, first_row, rows[first:last], keys[first:last]) - bounds[q])
        mask_rows(line, first_row, excluded_rows[excluded_offsets[q] : excluded_offsets[q + 1]], keys[:0])

        top_q, scale_q = top[q], scale[q]
        counter = cells[q]
        for start in range(0, line.size, _STRETCH):
            stretch = line[start : start + _STRETCH]
            # Loops of pure arithmetic are vectorised; the one in the middle is bound by the memory of its 16-bit counters.
            for c in range(n_cells):
                few[c] = _NEAR if counter[c] < 0 else 0
            for j in range(stretch.size):
                c = cell_of(stretch[j], top_q, scale_q, last_cell)
                place[j] = c if c < below else below + (j & (BELOW - 1))
            n_near = 0
            for j in range(stretch.size):
                at = np.intp(place[j])
                value = few[at]
                few[at] = value + 1
                if value < 0:
                    near[n_near] = start + j
                    from_positive[n_near] = first - 1 - counter[at]
                    n_near += 1
            for c in range(n_cells):
                counter[c] += max(few[c], 0)
            _resolve(line, query, q, block, first_row, near, n_near, from_positive, last, bounds[q], rows, keys, steps)
    return worst


@compiled
def finish(
    offsets: NDArray[np.int64],
    keys: NDArray[np.float64],
    top: NDArray[np.float32],
    scale: NDArray[np.float32],
    cells: NDArray[np.int32],
    steps: NDArray[np.int32],
) -> None:
    """Turn steps and cells into counts in place: steps [3, P] then holds those among the non-positives."""
    last_cell = np.float32(cells.shape[1] - BELOW)
    for q in range(offsets.size - 1):
        greater = equal = before = above = np.int64(0)
        c = 0
        for p in range(offsets[q], offsets[q + 1]):
            home = cell_of(np.float32(-keys[p]), top[q], scale[q], last_cell)
            while c < home:
                if cells[q, c] > 0:
                    above += cells[q, c]
                c += 1
            greater += steps[GREATER, p]
            equal += steps[EQUAL, p]
            before += steps[BEFORE, p]
            steps[GREATER, p] = greater + above
            steps[EQUAL, p] = equal
            steps[BEFORE, p] = before
