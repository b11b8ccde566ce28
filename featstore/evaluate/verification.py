"""1:1 verification: the true accept rate at a false accept rate, over all pairs of queries and gallery rows.

A pair is accepted when its score is at least the threshold: the smallest number above the (k + 1)-th largest impostor
score, k = ⌊FAR · impostor pairs⌋. So the false accept rate is the largest one that does not exceed the target, and the
rates are exact; nothing is read off a curve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import UsageError
from featstore.evaluate.arrays import PerQuery
from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking
from featstore.evaluate.metrics import metric_rate, require_measure
from featstore.evaluate.pair_scores import PairScores
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors

__all__ = ["verify_pairs"]


def verify_pairs(
    query: Vectors,
    gallery: Vectors,
    relevance: Relevance,
    metrics: Sequence[str],
    *,
    kind: ScoreKind = "cosine",
    blocking: Blocking = DEFAULT_BLOCKING,
    progress: Progress = SILENT,
    task: str = "scoring pairs",
) -> PerQuery:
    """True accept rates over all pairs that are not excluded.

    A query's value is the number of its genuine pairs that are accepted over the mean number of genuine pairs, so that
    the mean over queries is the rate over all genuine pairs.

    Args:
        query: [Q, D].
        gallery: [G, D].
        relevance: Which pairs are genuine.
        metrics: Names such as `tar@far=1e-4`.
        kind: What scores.
        blocking: How to cut the work; no result depends on it.
        progress: Told of gallery rows.
        task: What the progress is called.

    Raises:
        UsageError: A metric of something else, or no genuine or no impostor pair.
        NonFiniteError: A row cannot be scored.
    """
    require_measure(metrics, "verification")
    pairs = PairScores(query, gallery, relevance, kind=kind, blocking=blocking, progress=progress, task=task)
    if not pairs.n_positives or not pairs.n_negatives:
        raise UsageError(
            f"{pairs.n_positives} genuine and {pairs.n_negatives} impostor pairs: there is nothing to verify",
            hint="choose rows of several classes with --where, --query-where and --gallery-where",
        )
    targets = [metric_rate(name) * pairs.n_negatives for name in metrics]
    solved = pairs.solve([], [int(target) for target in targets])
    thresholds, warnings = {}, []
    for name, target, honest, beyond in zip(metrics, targets, solved.found, solved.beyond, strict=True):
        if target < 1:
            warnings.append(f"{name}: {pairs.n_negatives:,} impostor pairs are too few for this rate; none is accepted")
        nearer = name.endswith(":nearest") and beyond[1] - target < target - honest[1]
        thresholds[name] = (beyond if nearer else honest)[0]
    n_positives = relevance.n_positives()
    counted = n_positives > 0
    accepted = {name: np.zeros(len(n_positives)) for name in metrics}
    for owner, scores in pairs.positives():
        for name, threshold in thresholds.items():
            accepted[name] += np.bincount(owner[scores >= threshold], minlength=len(n_positives))
    per_query = counted.sum() / n_positives.sum()
    values = {name: np.where(counted, count * per_query, np.nan) for name, count in accepted.items()}
    return PerQuery.of_thresholds(values, n_positives, width=query.width, thresholds=thresholds, warnings=warnings)
