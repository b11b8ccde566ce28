"""Retrieval metrics, computed from rank counts, and their registry.

A metric's name carries its convention. Names with a cut-off are written with the number: `recall@10`.
R is the number of positives of a query in the whole gallery after exclusions; h_i the hits among the first i.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featstore.evaluate.counts import RankCounts, TieOrder

__all__ = ["METRICS", "MetricInfo", "Ranking", "metric_info", "metric_values"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranks of every query's positives under one order of ties.

    Attributes:
        query: The query of each positive, int64 [P], ascending.
        ranks: 1-based, int64 [P], ascending within a query.
        hits: 1, 2, … within a query, int64 [P].
        n_positives: R of each query, int64 [Q]; no query has 0.
    """

    query: NDArray[np.int64]
    ranks: NDArray[np.int64]
    hits: NDArray[np.int64]
    n_positives: NDArray[np.int64]

    def sum(self, terms: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        """Sum terms [P] over each query's positives, in rank order, [Q]."""
        return np.bincount(self.query, terms, minlength=len(self.n_positives)).astype(np.float64, copy=False)

    def first(self) -> NDArray[np.int64]:
        """The rank of each query's first hit, [Q]."""
        return np.asarray(self.ranks[self.hits == 1])


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric as users see it.

    Attributes:
        name: What to write; `k` stands for a positive number.
        description: One line.
        convention: The formula, where the literature has several under one name.
        compute: Values [Q] in [0, 1] from a ranking and the cut-off (0 for metrics without one).
    """

    name: str
    description: str
    convention: str
    compute: Callable[[Ranking, int], NDArray[np.float64]]


def _average_precision(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    return ranking.sum(ranking.hits / ranking.ranks) / ranking.n_positives


def _map_at_r(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    within = ranking.ranks <= ranking.n_positives[ranking.query]
    return ranking.sum(np.where(within, ranking.hits / ranking.ranks, 0.0)) / ranking.n_positives


def _r_precision(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    return ranking.sum(ranking.ranks <= ranking.n_positives[ranking.query]) / ranking.n_positives


def _recall_at_k(ranking: Ranking, k: int) -> NDArray[np.float64]:
    return (ranking.first() <= k).astype(np.float64)


def _reciprocal_rank(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    return 1.0 / ranking.first()


METRICS: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo(
            "map",
            "mean average precision over the whole ranking",
            "finite sum: AP = (1/R) Σ_i rel_i·h_i/i",
            _average_precision,
        ),
        MetricInfo(
            "map@r",
            "mean average precision within the first R ranks",
            "(1/R) Σ_{i≤R} rel_i·h_i/i (Musgrave et al. 2020)",
            _map_at_r,
        ),
        MetricInfo(
            "recall@k",
            "share of queries with a right answer among the first k",
            "any hit counts (CMC; metric-learning usage), not h_k/R",
            _recall_at_k,
        ),
        MetricInfo("r-precision", "share of right answers among the first R", "h_R/R", _r_precision),
        MetricInfo(
            "mrr", "mean reciprocal rank of the first right answer", "1/rank, over the whole ranking", _reciprocal_rank
        ),
    )
}
"""Every metric by the name in `MetricInfo.name`."""


def metric_info(name: str) -> tuple[MetricInfo, int]:
    """The metric that a name such as `map` or `recall@10` means, and its cut-off (0 if it has none).

    Raises:
        UnknownNameError: No metric has that name.
        UsageError: The cut-off is not a positive number.
    """
    if name in METRICS and not name.endswith("@k"):
        return METRICS[name], 0
    family, at, cut = name.partition("@")
    if at and f"{family}@k" in METRICS:
        if re.fullmatch(r"[1-9]\d{0,8}", cut):
            return METRICS[f"{family}@k"], int(cut)
        raise UsageError(
            f"the metric '{name}' needs a positive whole number after '@'", hint=f"for example {family}@10"
        )
    raise UnknownNameError("metric", name, METRICS)


def metric_values(counts: RankCounts, names: tuple[str, ...], ties: TieOrder = "row") -> dict[str, NDArray[np.float64]]:
    """Per-query values of each metric.

    Args:
        counts: The counts of a block of queries.
        names: Metric names.
        ties: The order of tied non-positives; `worst` and `best` give the bracket in which every order's value lies.

    Returns:
        float64 [Q] in [0, 1] by name; NaN for queries without positives.
    """
    has_positives = counts.n_positives > 0
    compact = np.cumsum(has_positives) - 1
    ranking = Ranking(compact[counts.query], counts.ranks(ties), counts.hits, counts.n_positives[has_positives])
    values = {}
    for name in names:
        info, cut = metric_info(name)
        values[name] = np.full(len(has_positives), np.nan)
        values[name][has_positives] = info.compute(ranking, cut)
    return values
