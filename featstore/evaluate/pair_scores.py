"""The cosines of all pairs of a query and a gallery row: how they are distributed, and exact thresholds between them.

Pairs stream through a float32 GEMM and are never held. A first pass counts negatives in narrow bins; a threshold that
lets k of them through lies in the bin that holds the (k+1)-th greatest. A second pass computes the canonical scores
(`scores.py`) of the pairs in that bin, widened by the GEMM's error bound, and finds that score exactly. So thresholds and
counts depend on the rows' values alone, not on how the work is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking
from featstore.evaluate.scores import UNIT_NORM, canonical_scores, score_error_bound
from featstore.evaluate.vectors import PreparedRows
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Listed, Relevance
    from featstore.evaluate.vectors import Vectors

__all__ = ["ACCEPT_ALL", "BINS", "Histogram", "PairScores", "Solved"]

BINS = 1 << 16
"""Bins of the first pass over [−1, 1]."""

ACCEPT_ALL = -1.001
"""A threshold that no score lies below: a cosine of rounded unit vectors may be a little less than −1."""

_QUERIES = 4096  # queries for which a gallery that is not kept is read once
_NO_SCORE = -2.0
_COLLAPSE = 1 << 22  # so many scores in a window are kept one by one; more (many ties) are kept with their counts


class Histogram(NamedTuple):
    """Pairs by their score, in `BINS` bins of equal width over [−1, 1].

    Attributes:
        positives: int64 [BINS].
        negatives: int64 [BINS]; pairs within the GEMM's error of a bin's edge may be counted beside it.
    """

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]


class Solved(NamedTuple):
    """Exact counts and thresholds; a pair is accepted when its score is at least the threshold.

    Attributes:
        accepted: Negatives that each given threshold accepts.
        found: For each allowed number of negatives, the smallest threshold that accepts no more, and how many it accepts.
    """

    accepted: list[int]
    found: list[tuple[float, int]]


class PairScores:
    """All pairs of queries and gallery rows but the excluded ones (the query itself, junk).

    Args:
        query: [Q, D].
        gallery: [G, D].
        relevance: Which pairs are positives, and which are excluded.
        blocking: How to cut the work; only the histogram's negatives depend on it, within the GEMM's error.
        progress: Told of gallery rows.
        task: What the progress is called.

    Raises:
        NonFiniteError: A row has no direction.
    """

    def __init__(
        self,
        query: Vectors,
        gallery: Vectors,
        relevance: Relevance,
        *,
        blocking: Blocking = DEFAULT_BLOCKING,
        progress: Progress = SILENT,
        task: str = "scores",
    ) -> None:
        self._query = PreparedRows(query, 0, side="query")
        self._gallery = PreparedRows(gallery, blocking.keep_bytes)
        self._relevance = relevance
        self._blocking = blocking
        self._progress = progress
        self._task = task
        self._bound = score_error_bound(query.width, UNIT_NORM**2)
        self.n_positives = int(relevance.n_positives().sum())
        excluded = sum(
            len(relevance.excluded(start, min(start + _QUERIES, query.rows)).rows)
            for start in range(0, query.rows, _QUERIES)
        )
        self.n_negatives = query.rows * gallery.rows - self.n_positives - excluded
        self._found: Histogram | None = None

    def histogram(self) -> Histogram:
        """How positives and negatives are distributed; one pass over all pairs, kept."""
        from featstore.evaluate import _pair_kernels as kernels

        if self._found is None:
            negatives = np.zeros(BINS, np.int64)
            positives = np.zeros(BINS, np.int64)
            for tile, _, _ in self._negatives("histogram"):
                kernels.count_bins(tile, negatives)
            for scores in self._positives():
                place = np.clip(((scores + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)
                positives += np.bincount(place, minlength=BINS)
            self._found = Histogram(positives, negatives)
        return self._found

    def solve(self, at: Sequence[float], allowed: Sequence[int]) -> Solved:
        """Count the negatives that thresholds accept, and find thresholds that accept a number of them.

        Args:
            at: Thresholds, in [−1, 1].
            allowed: Numbers of negatives.
        """
        if not at and not allowed:
            return Solved([], [])
        windows = [(threshold - self._bound, threshold + self._bound) for threshold in at]
        windows += [self._window_of(count) for count in allowed]
        above, values, counts = self._resolve(windows)
        accepted = [
            above[place] + int(counts[place][values[place] >= threshold].sum()) for place, threshold in enumerate(at)
        ]
        found = [
            self._smallest(count, above[place], values[place], counts[place])
            for place, count in enumerate(allowed, len(at))
        ]
        return Solved(accepted, found)

    def positives_at_least(self, thresholds: Sequence[float]) -> list[int]:
        """How many positives each threshold accepts; exact, one pass over the positives alone."""
        accepted = np.zeros(len(thresholds), np.int64)
        for scores in self._positives():
            accepted += (scores[None, :] >= np.array(thresholds)[:, None]).sum(axis=1)
        return accepted.tolist()

    def _window_of(self, allowed: int) -> tuple[float, float]:
        """Where the GEMM's score of the first negative that must be refused lies: the greatest but `allowed`."""
        if allowed >= self.n_negatives:
            return 2.0, 2.0
        from_top = np.cumsum(self.histogram().negatives[::-1])
        place = BINS - 1 - int(np.searchsorted(from_top, allowed, side="right"))
        width = 2 / BINS
        # a bin's float32 edge may be off by rounding, and the last bin holds what lies above 1 by rounding
        low, high = -1 + place * width - 1e-6, -1 + (place + 1) * width + 1e-6
        return low - 2 * self._bound, high + 2 * self._bound

    def _smallest(
        self, allowed: int, above: int, values: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> tuple[float, int]:
        """The smallest threshold that accepts no more than `allowed`, from the scores (descending) of its window."""
        if allowed >= self.n_negatives:
            return ACCEPT_ALL, self.n_negatives
        accepted = above + np.cumsum(counts)
        place = int(np.searchsorted(accepted, allowed, side="right"))  # the first score that must be refused
        return float(np.nextafter(values[place], np.inf)), int(accepted[place] - counts[place])

    def _resolve(
        self, windows: Sequence[tuple[float, float]]
    ) -> tuple[list[int], list[NDArray[np.float64]], list[NDArray[np.int64]]]:
        """For each window: negatives above it, and the canonical scores inside, descending, with their counts."""
        from featstore.evaluate import _pair_kernels as kernels

        order = np.argsort([low for low, _ in windows], kind="stable")
        lows, highs = np.array(windows, np.float64)[order].T.copy()
        above = np.zeros(len(windows), np.int64)
        inside = [_Tally() for _ in windows]
        room = 1 << 14
        for tile, part, block in self._negatives("thresholds"):
            while True:
                more = np.zeros(len(windows), np.int64)
                window, query, row = np.empty(room, np.int32), np.empty(room, np.int64), np.empty(room, np.int64)
                found = kernels.pick_windows(tile, lows, highs, more, window, query, row)
                if found <= room:
                    break
                room = 2 * found
            above += more
            if found:
                scores = canonical_scores(part, block, query[:found], row[:found])
                for place, tally in enumerate(inside):
                    tally.add(scores[window[:found] == place])
        given = np.argsort(order)
        pairs = [inside[place].pairs() for place in given]
        return above[given].tolist(), [values for values, _ in pairs], [counts for _, counts in pairs]

    def _negatives(self, what: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
        """Tiles of GEMM scores with everything but negatives blotted out: (tile, query rows, gallery rows)."""
        tiles = -(-self._query.rows // _QUERIES)
        self._progress.start(f"{self._task}: {what}", tiles * self._gallery.rows, "rows")
        size = self._blocking.tile_queries
        for start in range(0, self._query.rows, _QUERIES):
            queries = self._query.block(start, min(start + _QUERIES, self._query.rows))
            hidden = [
                (self._relevance.positives(first, last), self._relevance.excluded(first, last))
                for first, last in _parts(start, start + len(queries), size)
            ]
            for first_row, block in self._gallery.blocks(self._blocking.gallery_rows):
                for number, both in enumerate(hidden):
                    part = queries[number * size : (number + 1) * size]
                    tile = part @ block.T
                    for listed in both:
                        query, row = _within(listed, first_row, len(block))
                        tile[query, row] = _NO_SCORE
                    yield tile, part, block
                self._progress.advance(len(block))

    def _positives(self) -> Iterator[NDArray[np.float64]]:
        """Canonical scores of the positives, in pieces."""
        size = self._blocking.tile_queries
        for start in range(0, self._query.rows, _QUERIES):
            queries = self._query.block(start, min(start + _QUERIES, self._query.rows))
            listed = [self._relevance.positives(*ends) for ends in _parts(start, start + len(queries), size)]
            for first_row, block in self._gallery.blocks(self._blocking.gallery_rows):
                for number, positives in enumerate(listed):
                    query, row = _within(positives, first_row, len(block))
                    if len(query):
                        yield canonical_scores(queries[number * size : (number + 1) * size], block, query, row)


class _Tally:
    """Scores with how often each one occurs."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
        self._held = 0

    def add(self, scores: NDArray[np.float64]) -> None:
        if len(scores):
            self._parts.append((scores, np.ones(len(scores), np.int64)))
            self._held += len(scores)
            if self._held > _COLLAPSE:
                self._parts = [self.pairs()]
                self._held = len(self._parts[0][0])

    def pairs(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distinct scores, descending, and their counts."""
        if not self._parts:
            return np.empty(0), np.empty(0, np.int64)
        scores, counts = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        distinct, own = np.unique(scores, return_inverse=True)
        summed = np.zeros(len(distinct), np.int64)
        np.add.at(summed, own, counts)
        return distinct[::-1], summed[::-1]


def _parts(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def _within(listed: Listed, first_row: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The listed pairs of a gallery block, as places in the tile."""
    inside = np.flatnonzero((listed.rows >= first_row) & (listed.rows < first_row + rows))
    query = np.searchsorted(listed.offsets, inside, side="right") - 1
    return query, listed.rows[inside].astype(np.int64) - first_row
