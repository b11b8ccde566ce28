"""The scores of all pairs of a query and a gallery row: how they are distributed, and exact thresholds between them.

Pairs stream through a float32 GEMM and are never held. A threshold that lets k negatives through is an order statistic of
all of them, 10^9 at 10^4 queries and 10^5 gallery rows. A random sample of pairs first says in which narrow window it lies.
One pass then counts negatives in cells, and computes the canonical scores (`scores.py`) of those whose cell touches a
window, within the GEMM's error bound. The count of what lies above and the collected scores give the order statistic
exactly, and tell whether it lies in its window at all; should it not, the pass is repeated with a wider one. Of N
negatives some 4·N^(2/3) are held for six rates, eight bytes each (140 MB at 10^10) unless they tie. So thresholds
and counts depend on the rows' values alone, not on the sample or on how the work is cut.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking, thread_count
from featstore.evaluate.order_statistics import Order, StreamedScores, Window
from featstore.evaluate.scores import canonical_scores, score_error_bound
from featstore.evaluate.vectors import PreparedRows
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors

__all__ = ["ACCEPT_ALL", "BINS", "Histogram", "PairScores", "Solved"]

BINS = 1 << 16
"""Bins of a histogram over [−1, 1]."""

ACCEPT_ALL = -1.001
"""A threshold that no cosine lies below: one of rounded unit vectors may be a little less than −1."""

_QUERIES = 4096  # queries for which a gallery that is not kept is read once
_FEW = 1 << 17  # so many negatives are all collected
# Standard deviations of the sample's order statistic that a window reaches to either side; more when it was missed.
_REACH = 4.0


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
        beyond: For each of these the greatest threshold that accepts more, and how many that accepts.
    """

    accepted: list[int]
    found: list[tuple[float, int]]
    beyond: list[tuple[float, int]]


class PairScores:
    """All pairs of queries and gallery rows but the excluded ones (the query itself, junk).

    Args:
        query: [Q, D].
        gallery: [G, D].
        relevance: Which pairs are positives, and which are excluded.
        kind: What scores.
        blocking: How to cut the work; only the histogram's negatives depend on it, within the GEMM's error.
        sample: Pairs of the random sample (n); fewer negatives than that are all collected. By default N^(2/3) of N
            negatives: a window holds a share of 1/√n, so sample and windows cost about the same.
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
        kind: ScoreKind = "cosine",
        blocking: Blocking = DEFAULT_BLOCKING,
        sample: int | None = None,
        progress: Progress = SILENT,
        task: str = "scores",
    ) -> None:
        self._query = PreparedRows(query, blocking.state_bytes // 4, kind=kind, side="query")
        self._gallery = PreparedRows(gallery, blocking.keep_bytes, kind=kind)
        self._accept_all = ACCEPT_ALL if kind == "cosine" else float(np.finfo(np.float32).min)
        self._relevance = relevance
        self._blocking = blocking
        self._progress = progress
        self._task = task
        self.n_positives = int(relevance.n_positives().sum())
        excluded = sum(
            len(relevance.excluded(start, min(start + _QUERIES, query.rows)).rows)
            for start in range(0, query.rows, _QUERIES)
        )
        self.n_negatives = query.rows * gallery.rows - self.n_positives - excluded
        self._sample = max(_FEW, round(self.n_negatives ** (2 / 3))) if sample is None else sample
        self._found: Histogram | None = None

    def histogram(self) -> Histogram:
        """How positives and negatives are distributed; one pass over all pairs, kept."""
        from featstore.evaluate import _pair_kernels as kernels

        if self._found is None:
            negatives = np.zeros(BINS, np.int64)
            positives = np.zeros(BINS, np.int64)
            for tile, _, _ in self._negatives("histogram"):
                kernels.count_bins(tile, negatives)
            for _, scores in self.positives():
                place = np.clip(((scores + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)
                positives += np.bincount(place, minlength=BINS)
            self._found = Histogram(positives, negatives)
        return self._found

    def solve(self, at: Sequence[float], allowed: Sequence[int]) -> Solved:
        """Count the negatives that thresholds accept, and find thresholds that accept a number of them.

        Args:
            at: Thresholds.
            allowed: Numbers of negatives.
        """
        known: dict[int, Order] = {}
        accepted: list[int] | None = [] if not at else None
        sample = self._sampled() if any(count < self.n_negatives for count in allowed) else np.zeros(0)
        reach = _REACH
        while True:
            missing = [count for count in dict.fromkeys(allowed) if count < self.n_negatives and count not in known]
            if accepted is not None and not missing:
                break
            windows = [self._window_of(count, sample, reach) for count in missing]
            counted = self._streamed([*windows, *(Window(t, t) for t in (at if accepted is None else ()))])
            if accepted is None:
                accepted = [counted.accepted(threshold) for threshold in at]
            for count, window in zip(missing, windows, strict=True):
                order = counted.order(count + 1, window)
                if order is not None:
                    known[count] = order
            reach *= 4
        everything = Order(self._accept_all, self.n_negatives, self.n_negatives)
        orders = [known.get(count, everything) for count in allowed]
        return Solved(
            accepted,
            [(_next_above(order.score) if order is not everything else order.score, order.above) for order in orders],
            [(order.score, order.at_least) for order in orders],
        )

    def positives_at_least(self, thresholds: Sequence[float]) -> list[int]:
        """How many positives each threshold accepts; exact, one pass over the positives alone."""
        accepted = np.zeros(len(thresholds), np.int64)
        for _, scores in self.positives():
            accepted += (scores[None, :] >= np.array(thresholds)[:, None]).sum(axis=1)
        return accepted.tolist()

    def positives(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """The positives in pieces: the query of each, and its canonical score."""
        from featstore.evaluate import _score_kernels as kernels

        for start, stop in _parts(0, self._query.rows, _QUERIES):
            queries = self._query.block(start, stop)
            listed = self._relevance.positives(start, stop)
            keys = np.empty(len(listed.rows))
            for first_row, block in self._gallery.blocks(self._blocking.gallery_rows):
                kernels.score_listed(0, stop - start, queries, block, first_row, *listed, keys)
            yield start + np.repeat(np.arange(stop - start), np.diff(listed.offsets)), -keys

    def _window_of(self, allowed: int, sample: NDArray[np.float64], reach: float) -> Window:
        """Where the greatest negative but `allowed` lies, by the same order statistic of a sample (ascending)."""
        n, share = len(sample), (allowed + 1) / self.n_negatives
        deviation = reach * float(np.sqrt(n * share * (1 - share))) + reach**2 / 2
        first, last = int(n * share - deviation), int(n * share + deviation) + 1
        return Window(
            low=float(sample[n - 1 - last]) if last < n else -np.inf,
            high=float(sample[n - 1 - first]) if 0 <= first < n else np.inf,
        )

    def _sampled(self) -> NDArray[np.float64]:
        """Scores of random negatives, as many of every query, ascending; none when all of them can be collected."""
        if self.n_negatives <= self._sample:
            return np.zeros(0)
        random = np.random.default_rng(0)
        each = -(-self._sample // self._query.rows)
        scores = []
        for start, stop in _parts(0, self._query.rows, _QUERIES):
            query = np.repeat(np.arange(stop - start), each)
            rows = random.integers(self._gallery.rows, size=len(query))
            for listed in (self._relevance.positives(start, stop), self._relevance.excluded(start, stop)):
                owner = np.repeat(np.arange(stop - start), np.diff(listed.offsets))
                pairs, known = (row + at * self._gallery.rows for at, row in ((query, rows), (owner, listed.rows)))
                place = np.minimum(np.searchsorted(known, pairs), len(known) - 1)
                outside = known[place] != pairs if len(known) else np.ones(len(pairs), bool)
                query, rows = query[outside], rows[outside]
            order = np.argsort(rows, kind="stable")
            query, rows = query[order], rows[order]
            left = self._query.block(start, stop)
            for first_row, block in self._gallery.blocks(self._blocking.gallery_rows):
                begin, end = np.searchsorted(rows, [first_row, first_row + len(block)])
                scores.append(canonical_scores(left, block, query[begin:end], rows[begin:end] - first_row))
        return np.sort(np.concatenate(scores))

    def _streamed(self, windows: Sequence[Window]) -> StreamedScores:
        """One pass over all negatives."""
        norms = [rows.measured_norm(self._blocking.gallery_rows) for rows in (self._query, self._gallery)]
        counted = StreamedScores(windows, score_error_bound(self._query.width, norms[0] * norms[1]))
        threads = thread_count()
        with ThreadPoolExecutor(threads) as pool:
            for tile, part, block in self._negatives("thresholds"):
                cuts = [len(tile) * number // threads for number in range(threads + 1)]
                for cells, scores in pool.map(partial(_collected, counted, tile, part, block), pairwise(cuts)):
                    counted.add(cells, scores)
        return counted

    def _negatives(self, what: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
        """Tiles of GEMM scores, −∞ for all that are not negatives: (tile, query rows, gallery rows).

        A tile is overwritten by the next one: fresh memory for each would take a tenth of the time of the product.
        """
        from featstore.evaluate import _pair_kernels as kernels

        tiles = -(-self._query.rows // _QUERIES)
        self._progress.start(f"{self._task}: {what}", tiles * self._gallery.rows, "rows")
        size = self._blocking.tile_queries
        memory = np.empty(
            min(size, self._query.rows) * min(self._blocking.gallery_rows, self._gallery.rows), np.float32
        )
        for start in range(0, self._query.rows, _QUERIES):
            queries = self._query.block(start, min(start + _QUERIES, self._query.rows))
            hidden = [
                (self._relevance.positives(first, last), self._relevance.excluded(first, last))
                for first, last in _parts(start, start + len(queries), size)
            ]
            for first_row, block in self._gallery.blocks(self._blocking.gallery_rows):
                for number, both in enumerate(hidden):
                    part = queries[number * size : (number + 1) * size]
                    tile = memory[: len(part) * len(block)].reshape(len(part), len(block))
                    np.matmul(part, block.T, out=tile)
                    for listed in both:
                        kernels.mask_tile(tile, first_row, *listed)
                    yield tile, part, block
                self._progress.advance(len(block))


def _collected(
    counted: StreamedScores,
    tile: NDArray[np.float32],
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    lines: tuple[int, int],
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The counts of some lines of a tile, and the canonical scores of the pairs in windows."""
    found = counted.collect(tile, *lines)
    return found.cells, canonical_scores(query, gallery, found.queries, found.rows)


def _parts(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def _next_above(score: float) -> float:
    return float(np.nextafter(score, np.inf))
