"""Metrics of one query matrix against one gallery matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking
from featstore.evaluate.metrics import metric_info, metric_values
from featstore.evaluate.ranks import ranked_blocks
from featstore.evaluate.relevance import ByLabel
from featstore.evaluate.ties import expected_average_precision
from featstore.evaluate.vectors import ArrayVectors
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors

__all__ = ["PerQuery", "evaluate_arrays", "evaluate_vectors"]

# Positives whose metrics are computed at once: their arrays stay small beside the counters.
_PIECE = 2**18


@dataclass(frozen=True, slots=True)
class PerQuery:
    """Every query's values. Queries without positives are NaN, left out of means and counted, unless they count as zero.

    Attributes:
        values: By metric, float64 [Q] in [0, 1]; ties in gallery row order.
        lowest: The same with all ties against the positives. An order of ties can give nothing below it, if the metric
            is monotone.
        highest: The same with all ties in favour of the positives.
        expected_map: Average precision expected under a random order of ties, [Q].
        n_positives: Right answers of each query in the gallery, int64 [Q].
        tied: Queries in which a positive ties with a non-positive, bool [Q].
        counted: Queries that means are taken over, bool [Q].
        width: Components that were compared.
        thresholds: By metric, the least score that is accepted; only for metrics with a threshold.
        warnings: What a reader of the values has to know.
    """

    values: dict[str, NDArray[np.float64]]
    lowest: dict[str, NDArray[np.float64]]
    highest: dict[str, NDArray[np.float64]]
    expected_map: NDArray[np.float64]
    n_positives: NDArray[np.int64]
    tied: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    width: int = 0
    thresholds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_thresholds(
        cls,
        values: dict[str, NDArray[np.float64]],
        n_positives: NDArray[np.int64],
        *,
        width: int,
        thresholds: dict[str, float],
        warnings: Sequence[str],
    ) -> PerQuery:
        """Values of metrics that accept scores by a threshold, which no order of ties changes."""
        return cls(
            values=values,
            lowest=values,
            highest=values,
            expected_map=np.full(len(n_positives), np.nan),
            n_positives=n_positives,
            tied=np.zeros(len(n_positives), bool),
            counted=n_positives > 0,
            width=width,
            thresholds=thresholds,
            warnings=tuple(warnings),
        )

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Queries that means are taken over, bool [Q]."""
        return self.counted

    @property
    def n_queries(self) -> int:
        """Queries that count."""
        return int(self.counted.sum())

    @property
    def n_skipped(self) -> int:
        """Queries that do not."""
        return len(self.counted) - self.n_queries

    def mean(self, metric: str) -> float:
        """The mean over queries that count; NaN when there is none."""
        return self._mean(self.values[metric])

    def bracket(self, metric: str) -> tuple[float, float] | None:
        """The least and the greatest mean that an order of ties can give; None for a metric that is not monotone."""
        if not metric_info(metric)[0].monotone:
            return None
        return self._mean(self.lowest[metric]), self._mean(self.highest[metric])

    def with_zeros(self, absent: int = 0) -> PerQuery:
        """The same, with queries without positives, and `absent` further ones at the end, counted as zero."""

        def filled(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.concatenate([np.nan_to_num(values, nan=0.0), np.zeros(absent)])

        def all_filled(values: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
            return {name: filled(column) for name, column in values.items()}

        return PerQuery(
            values=all_filled(self.values),
            lowest=all_filled(self.lowest),
            highest=all_filled(self.highest),
            expected_map=filled(self.expected_map),
            n_positives=np.concatenate([self.n_positives, np.zeros(absent, np.int64)]),
            tied=np.concatenate([self.tied, np.zeros(absent, bool)]),
            counted=np.ones(len(self.counted) + absent, bool),
            width=self.width,
        )

    def _mean(self, values: NDArray[np.float64]) -> float:
        return float(values[self.counted].mean()) if self.counted.any() else float("nan")


def evaluate_vectors(
    query: Vectors,
    gallery: Vectors,
    relevance: Relevance,
    metrics: Sequence[str],
    *,
    kind: ScoreKind = "cosine",
    missing: NDArray[np.int64] | None = None,
    blocking: Blocking = DEFAULT_BLOCKING,
    progress: Progress = SILENT,
    task: str = "ranking",
) -> PerQuery:
    """Exact metrics of every query, in memory bounded by `blocking`.

    Args:
        query: [Q, D].
        gallery: [G, D].
        relevance: Which gallery rows answer which query.
        metrics: Names from the metric registry.
        kind: What ranks: cosine, inner product or Euclidean distance.
        missing: Right answers of each query that are in no gallery row, int64 [Q].
        blocking: How to cut the work; no result depends on it.
        progress: Told of gallery rows.
        task: What the progress is called.

    Raises:
        UnknownNameError: A metric nobody knows; before anything is read.
        AlignmentError: Widths or row counts differ.
        NonFiniteError: A row cannot be scored.
    """
    names = tuple(dict.fromkeys(metrics))
    for name in names:
        metric_info(name)
    n = query.rows
    values, lowest, highest = ({name: np.full(n, np.nan) for name in names} for _ in range(3))
    expected = np.full(n, np.nan)
    n_positives = np.zeros(n, np.int64)
    tied = np.zeros(n, bool)
    for first, block in ranked_blocks(
        query, gallery, relevance, kind=kind, blocking=blocking, progress=progress, task=task
    ):
        for start, counts in block.pieces(_PIECE):
            part = slice(first + start, first + start + len(counts.n_positives))
            n_positives[part] = counts.n_positives
            tied[part] = np.bincount(counts.query, counts.equal, minlength=len(counts.n_positives)) > 0
            lacking = None if missing is None else missing[part]
            by_row = metric_values(counts, names, missing=lacking)
            has_ties = bool(tied[part].any())
            worst = metric_values(counts, names, "worst", lacking) if has_ties else by_row
            best = metric_values(counts, names, "best", lacking) if has_ties else by_row
            for name in names:
                values[name][part], lowest[name][part], highest[name][part] = by_row[name], worst[name], best[name]
            expected[part] = expected_average_precision(counts)
    return PerQuery(values, lowest, highest, expected, n_positives, tied, n_positives > 0, width=query.width)


def evaluate_arrays(
    query: NDArray[np.floating],
    gallery: NDArray[np.floating],
    *,
    query_labels: NDArray[np.integer],
    gallery_labels: NDArray[np.integer],
    self_rows: NDArray[np.integer] | None = None,
    metrics: Sequence[str] = ("map", "map@r", "recall@1"),
    kind: ScoreKind = "cosine",
) -> PerQuery:
    """Exact metrics of every query; a gallery row is right when its label is the query's.

    Args:
        query: [Q, D], any float dtype; normalised here for cosines.
        gallery: [G, D], any float dtype; normalised here for cosines.
        query_labels: Integers [Q]; negative is unlabelled.
        gallery_labels: Integers [G]; rows with a negative label answer nothing.
        self_rows: The gallery row that is the query itself and is left out of its ranking, int64 [Q], −1 for none.
        metrics: Names from the metric registry.
        kind: What ranks: cosine, inner product or Euclidean distance (see `scores.py`).

    Raises:
        UnknownNameError: A metric nobody knows.
        AlignmentError: Widths or row counts differ.
        BadInputError: Not floating-point matrices.
        NonFiniteError: A row has NaN, infinity, or (for cosines) zero norm.
    """
    relevance = ByLabel(query_labels, gallery_labels, self_rows)
    return evaluate_vectors(
        ArrayVectors(query, "queries"), ArrayVectors(gallery, "gallery"), relevance, metrics, kind=kind
    )
