"""1:N identification with rejection: is the right entry first, and accepted, while strangers are turned away?

A search accepts its first gallery entry when the score is at least the threshold: the smallest number above the
(k + 1)-th largest of the best scores of the n searches without a mate in the gallery, k = ⌊FPIR · n⌋. At most a share FPIR
of them has any entry accepted (NIST's false positive identification rate). A mated search succeeds when its mate scores
above every other entry and is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import UsageError
from featstore.evaluate.arrays import PerQuery
from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking
from featstore.evaluate.metrics import metric_rate, require_measure
from featstore.evaluate.neighbours import top_k
from featstore.evaluate.ranks import ranked_blocks
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors

__all__ = ["identify"]

_LOWEST = float(np.finfo(np.float32).min)


def identify(
    query: Vectors,
    gallery: Vectors,
    relevance: Relevance,
    metrics: Sequence[str],
    *,
    kind: ScoreKind = "cosine",
    blocking: Blocking = DEFAULT_BLOCKING,
    progress: Progress = SILENT,
    task: str = "searching",
) -> PerQuery:
    """True positive identification rates: 1 or 0 for every mated search, NaN for the others.

    Args:
        query: Probes [Q, D].
        gallery: Enrolled entries [G, D].
        relevance: Which entries are a probe's mates.
        metrics: Names such as `tpir@fpir=0.01`.
        kind: What scores.
        blocking: How to cut the work; no result depends on it.
        progress: Told of gallery rows.
        task: What the progress is called.

    Raises:
        UsageError: A metric of something else, or no mated or no non-mated probe.
        NonFiniteError: A row cannot be scored.
    """
    require_measure(metrics, "identification")
    n_positives = relevance.n_positives()
    mated = n_positives > 0
    if mated.all() or not mated.any():
        raise UsageError(
            f"{int(mated.sum())} probes with and {int((~mated).sum())} without a mate in the gallery: 1:N needs both",
            hint="leave some classes out of the gallery with --gallery-where",
        )
    first = np.zeros(len(mated), bool)
    score = np.full(len(mated), -np.inf)
    for start, counts in ranked_blocks(
        query, gallery, relevance, kind=kind, blocking=blocking, progress=progress, task=task
    ):
        owners = np.flatnonzero(counts.n_positives)
        best = counts.offsets[owners]
        score[start + owners] = counts.scores[best]
        first[start + owners] = (counts.greater[best] == 0) & (counts.equal[best] == 0)
    strangers = np.flatnonzero(~mated)
    excluded = relevance.excluded(0, len(mated))
    own = np.full(len(mated), -1)
    alone = np.diff(excluded.offsets)
    if (alone[strangers] > 1).any():
        raise UsageError(
            "a probe without a mate has junk in the gallery, which 1:N has no place for", hint="leave it out"
        )
    own[alone == 1] = excluded.rows[excluded.offsets[:-1][alone == 1]]
    nearest = top_k(_Some(query, strangers), gallery, 1, own[strangers], kind=kind, blocking=blocking)
    highest = -np.sort(-np.nan_to_num(nearest.scores[:, 0], nan=_LOWEST))
    values, thresholds, warnings = {}, {}, []
    for name in metrics:
        rate = metric_rate(name)
        allowed = int(rate * len(strangers))
        if not allowed:
            warnings.append(f"{name}: {len(strangers)} non-mated probes are too few for this rate; none is accepted")
        refused = highest[allowed] if allowed < len(strangers) else _LOWEST
        thresholds[name] = float(np.nextafter(refused, np.inf))
        values[name] = np.where(mated, first & (score >= thresholds[name]), np.nan)
    return PerQuery.of_thresholds(values, n_positives, width=query.width, thresholds=thresholds, warnings=warnings)


class _Some:
    """Some rows of a matrix, ascending."""

    def __init__(self, vectors: Vectors, chosen: NDArray[np.int64]) -> None:
        self._vectors = vectors
        self._chosen = chosen
        self.rows = len(chosen)
        self.width = vectors.width

    def __str__(self) -> str:
        return str(self._vectors)

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop) of the chosen ones."""
        rows = self._chosen[start:stop]
        first = int(rows[0]) if len(rows) else 0
        return self._vectors.read(first, int(rows[-1]) + 1 if len(rows) else 0)[rows - first]

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the rows are called."""
        return self._vectors.names(self._chosen[list(rows)].tolist())
