"""Retrieval metrics, computed from rank counts, and their registry.

A metric's name carries its convention, because public code means different numbers by one name. Names with a cut-off are
written with the number: `recall@10`, `map@100:R`. R is the number of positives of a query in the whole gallery after
exclusions, h_i the hits among the first i ranks, rel_i 1 where rank i is a hit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np

from featstore.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.counts import RankCounts, TieOrder

__all__ = [
    "METRICS",
    "Measure",
    "MetricInfo",
    "Ranking",
    "metric_info",
    "metric_rate",
    "metric_values",
    "require_measure",
]

Measure = Literal["ranking", "verification", "identification"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranks of every query's positives under one order of ties.

    Attributes:
        query: The query of each positive, int64 [P], ascending.
        ranks: 1-based, int64 [P], ascending within a query.
        hits: 1, 2, … within a query, int64 [P].
        n_positives: R of each query, int64 [Q]; at least as many as it has ranks, of which there are one or more.
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
        compute: Values [Q] in [0, 1] from a ranking and the cut-off (0 for metrics without one); None for what is not
            measured on rankings.
        monotone: Whether a hit that moves up never lowers the value. Only then do the worst and the best order of
            ties bracket it.
        measure: What it is measured on: rankings, pairs (1:1), or searches with rejection (1:N).
    """

    name: str
    description: str
    convention: str
    compute: Callable[[Ranking, int], NDArray[np.float64]] | None
    monotone: bool = True
    measure: Measure = "ranking"


def _average_precision(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    return ranking.sum(ranking.hits / ranking.ranks) / ranking.n_positives


def _trapezoidal_ap(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    # With hits counted from 0 at 0-based position p, the precision just before the hit is hits/p, or 1 at the top.
    before = ranking.hits - 1
    precision = np.divide(before, ranking.ranks - 1, out=np.ones(len(before)), where=ranking.ranks > 1)
    return ranking.sum((precision + ranking.hits / ranking.ranks) / 2) / ranking.n_positives


def _precision_sum(ranking: Ranking, k: int | NDArray[np.int64]) -> NDArray[np.float64]:
    return ranking.sum(np.where(ranking.ranks <= k, ranking.hits / ranking.ranks, 0.0))


def _hits_within(ranking: Ranking, k: int | NDArray[np.int64]) -> NDArray[np.float64]:
    return ranking.sum(ranking.ranks <= k)


def _ap_at_k(ranking: Ranking, k: int) -> NDArray[np.float64]:
    return _precision_sum(ranking, k) / np.minimum(ranking.n_positives, k)


def _ap_at_k_of_all(ranking: Ranking, k: int) -> NDArray[np.float64]:
    return _precision_sum(ranking, k) / ranking.n_positives


def _ap_at_k_of_hits(ranking: Ranking, k: int) -> NDArray[np.float64]:
    return _precision_sum(ranking, k) / np.maximum(_hits_within(ranking, k), 1)


def _map_at_r(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    return _precision_sum(ranking, ranking.n_positives[ranking.query]) / ranking.n_positives


def _r_precision(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    return _hits_within(ranking, ranking.n_positives[ranking.query]) / ranking.n_positives


def _recall_at_k(ranking: Ranking, k: int) -> NDArray[np.float64]:
    return (ranking.first() <= k).astype(np.float64)


def _share_found(ranking: Ranking, k: int) -> NDArray[np.float64]:
    return _hits_within(ranking, k) / ranking.n_positives


def _precision_at_k(ranking: Ranking, k: int) -> NDArray[np.float64]:
    return _hits_within(ranking, k) / k


def _precision_lowered(ranking: Ranking, k: int) -> NDArray[np.float64]:
    last = ranking.ranks[np.searchsorted(ranking.query, np.arange(len(ranking.n_positives)), side="right") - 1]
    lowered = np.minimum(last, k)
    return _hits_within(ranking, lowered[ranking.query]) / lowered


def _reciprocal_rank(ranking: Ranking, _k: int) -> NDArray[np.float64]:
    return 1.0 / ranking.first()


def _ndcg(ranking: Ranking, k: int) -> NDArray[np.float64]:
    gained = ranking.sum(np.where(ranking.ranks <= k, 1.0 / np.log2(ranking.ranks + 1.0), 0.0))
    deepest = int(min(ranking.n_positives.max(initial=0), k))
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, deepest + 2)))])
    return np.asarray(gained / ideal[np.minimum(ranking.n_positives, k)])


_AP_SUM = "Σ_{i≤k} rel_i·h_i/i divided by "

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
            "map:trapezoid",
            "mean average precision of revisited Oxford and Paris",
            "(1/R) Σ over hits of the mean of the precisions just before and at the hit (Radenović et al. 2018)",
            _trapezoidal_ap,
        ),
        MetricInfo(
            "map@k",
            "mean average precision within the first k ranks",
            _AP_SUM + "min(R, k) (Google Landmarks, Kaggle); the same as map@k:minRk",
            _ap_at_k,
        ),
        MetricInfo("map@k:minRk", "map@k with its convention spelled out", _AP_SUM + "min(R, k)", _ap_at_k),
        MetricInfo(
            "map@k:R",
            "map@k that counts what was not retrieved as missed",
            _AP_SUM + "R (trec_eval map_cut, ranx, pytorch-metric-learning)",
            _ap_at_k_of_all,
        ),
        MetricInfo(
            "map@k:hits",
            "map@k over what was retrieved",
            _AP_SUM + "h_k, 0 without a hit (torchmetrics, open-metric-learning)",
            _ap_at_k_of_hits,
            monotone=False,
        ),
        MetricInfo(
            "map@r",
            "mean average precision within the first R ranks",
            "(1/R) Σ_{i≤R} rel_i·h_i/i (Musgrave et al. 2020)",
            _map_at_r,
        ),
        MetricInfo("r-precision", "share of right answers among the first R", "h_R/R", _r_precision),
        MetricInfo(
            "recall@k",
            "share of queries with a right answer among the first k",
            "any hit counts (CMC; metric-learning usage), not h_k/R",
            _recall_at_k,
        ),
        MetricInfo(
            "ir-recall@k", "share of the right answers that are among the first k", "h_k/R (TREC usage)", _share_found
        ),
        MetricInfo(
            "precision@k", "share of right answers among the first k", "h_k/k, also where R < k", _precision_at_k
        ),
        MetricInfo(
            "precision@k:revisited",
            "mP@k of revisited Oxford and Paris",
            "h_m/m with m = min(k, rank of the last positive), so it can exceed precision@k",
            _precision_lowered,
            monotone=False,
        ),
        MetricInfo(
            "mrr", "mean reciprocal rank of the first right answer", "1/rank, over the whole ranking", _reciprocal_rank
        ),
        MetricInfo(
            "ndcg@k",
            "normalised discounted cumulative gain within the first k ranks",
            "gain 1 for a right answer (2^rel − 1 is the same), discount 1/log2(i + 1), ideal cut at k",
            _ndcg,
        ),
        MetricInfo(
            "tar@far=x",
            "share of genuine pairs accepted when at most a share x of the impostor pairs is",
            "1:1 over all pairs; the largest false accept rate ≤ x; the interval holds the threshold fixed",
            None,
            monotone=False,
            measure="verification",
        ),
        MetricInfo(
            "tar@far=x:nearest",
            "tar@far=x at the false accept rate nearest to x",
            "may accept more than x (insightface's reading of an ROC curve), optimistic when impostors are few",
            None,
            monotone=False,
            measure="verification",
        ),
        MetricInfo(
            "tpir@fpir=x",
            "share of mated searches whose own entry comes first and is accepted",
            "1:N: at most a share x of the non-mated searches has an entry accepted; the interval holds the threshold fixed",
            None,
            monotone=False,
            measure="identification",
        ),
    )
}
"""Every metric by the name in `MetricInfo.name`."""


def metric_info(name: str) -> tuple[MetricInfo, int]:
    """The metric that a name such as `map` or `recall@10` means, and its cut-off (0 if it has none).

    Raises:
        UnknownNameError: No metric has that name.
        UsageError: The cut-off is not a positive number, or a rate is not between 0 and 1.
    """
    if name in METRICS and "@k" not in name and "=x" not in name:
        return METRICS[name], 0
    family, at, rest = name.partition("@")
    cut, colon, convention = rest.partition(":")
    if at and f"{family}@k{colon}{convention}" in METRICS:
        if re.fullmatch(r"[1-9]\d{0,8}", cut):
            return METRICS[f"{family}@k{colon}{convention}"], int(cut)
        raise UsageError(
            f"the metric '{name}' needs a positive whole number after '@'",
            hint=f"for example {family}@10{colon}{convention}",
        )
    rate, equals, _ = cut.partition("=")
    if equals and f"{family}@{rate}=x{colon}{convention}" in METRICS:
        metric_rate(name)
        return METRICS[f"{family}@{rate}=x{colon}{convention}"], 0
    raise UnknownNameError("metric", name, METRICS)


def require_measure(names: Sequence[str], measure: Measure) -> None:
    """Refuse metrics of another kind of measurement.

    Raises:
        UnknownNameError: A metric nobody knows.
        UsageError: It is measured on something else.
    """
    for name in names:
        if metric_info(name)[0].measure != measure:
            known = ", ".join(known for known, info in METRICS.items() if info.measure == measure)
            raise UsageError(f"'{name}' is no metric of {measure}", hint=f"{measure} measures {known}")


def metric_rate(name: str) -> Fraction:
    """The rate in the name of a metric such as `tar@far=1e-4`, exactly.

    Raises:
        UsageError: It is not a number above 0 and at most 1.
    """
    text = name.partition("=")[2].partition(":")[0]
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1:
        raise UsageError(
            f"the metric '{name}' needs a rate between 0 and 1", hint=f"for example {name.partition('=')[0]}=1e-3"
        )
    return rate


def metric_values(
    counts: RankCounts,
    names: tuple[str, ...],
    ties: TieOrder = "row",
    missing: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Per-query values of each metric.

    Args:
        counts: The counts of a block of queries.
        names: Metric names.
        ties: The order of tied non-positives; `worst` and `best` bracket the value of a monotone metric under any order.
        missing: Right answers of each query that are in no gallery row, int64 [Q]: they raise R and are never found.

    Returns:
        float64 [Q] in [0, 1] by name; NaN for queries without positives.
    """
    has_positives = counts.n_positives > 0
    compact = np.cumsum(has_positives) - 1
    relevant = counts.n_positives if missing is None else counts.n_positives + missing
    ranking = Ranking(compact[counts.query], counts.ranks(ties), counts.hits, relevant[has_positives])
    values = {}
    for name in names:
        info, cut = metric_info(name)
        values[name] = np.full(len(has_positives), np.nan)
        if info.compute is None:
            raise UsageError(
                f"'{name}' is not a metric of rankings", hint=f"use a protocol that measures {info.measure}"
            )
        values[name][has_positives] = info.compute(ranking, cut)
    return values
