"""Judging maps by retrieval on rows they were not fitted on; never by how near the outputs come to their targets.

Q validation rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.evaluate import evaluate_arrays, metric_info
from featstore.maps import FeatureMap, map_block
from featstore_training.adapters.base import Candidate

__all__ = ["HeldOut"]

OWN_ROW_METRIC = "mrr"


class HeldOut:
    """Retrieval among the validation rows, the gallery or the queries behind a map.

    The other cell of an upgrade, new queries on the new gallery, is the same for all maps, so the harmonic score of
    training comes to the cross-test alone.

    Args:
        source: What the map takes, side-information behind it, [Q, D_in].
        target: What the other model makes of the same rows, [Q, D_out].
        labels: int64 [Q], −1 for none.
        maps_queries: Whether queries are mapped, or the gallery.
        by: What counts as right; None takes labels where two rows share one.
        metric: What is measured by labels.
        width: Components of `source` that are no side-information; None for all.
    """

    def __init__(
        self,
        source: NDArray[np.floating[Any]],
        target: NDArray[np.floating[Any]],
        labels: NDArray[np.int64],
        *,
        maps_queries: bool,
        by: Literal["labels", "pairs"] | None,
        metric: str,
        width: int | None = None,
    ) -> None:
        metric_info(metric)
        labelled = labels >= 0
        answerable = len(np.unique(labels[labelled])) < labelled.sum()
        self.by = by or ("labels" if answerable else "pairs")
        if by == "labels" and not answerable:
            raise UsageError("no two validation rows share a label", hint="--set select_by=pairs needs no labels")
        if self.by == "labels":
            source, target, labels = source[labelled], target[labelled], labels[labelled]
        self.metric = metric if self.by == "labels" else OWN_ROW_METRIC
        self._source, self._target, self._labels = source, target, labels
        self._maps_queries = maps_queries
        self._width = width

    def score(self, module: FeatureMap) -> float:
        """The cross-test of the upgrade with this map, which is in eval mode."""
        mapped = map_block(module, self._source)
        return self._measure(*((mapped, self._target) if self._maps_queries else (self._target, mapped)))

    def doubt(self, module: FeatureMap, uncertainty: FeatureMap) -> float:
        """Rank correlation (Spearman) of a map's uncertainty with its true error, 1 − cos to the other model's feature."""
        mapped = map_block(module, self._source)
        unit, truth = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (mapped, self._target))
        return _rank_correlation(map_block(uncertainty, mapped)[:, 0], 1 - (unit * truth).sum(axis=1))

    def choose(self, candidates: Iterator[Candidate]) -> Candidate:
        """The one with the best score; of equal ones the first."""
        return max(candidates, key=lambda candidate: self.score(candidate.module))

    def as_json(self) -> dict[str, Any]:
        """What scores stand beside: each model on its own, by labels only (a row finds itself otherwise)."""
        own: dict[str, float] = {}
        if self.by == "labels":
            source, target = (self._measure(side, side) for side in (self._source[:, : self._width], self._target))
            own = dict(
                zip(
                    ("new_new", "old_old") if self._maps_queries else ("old_old", "new_new"),
                    (source, target),
                    strict=True,
                )
            )
        return {"by": self.by, "metric": self.metric, "rows": len(self._labels), **own}

    def _measure(self, query: NDArray[np.floating[Any]], gallery: NDArray[np.floating[Any]]) -> float:
        rows = np.arange(len(query))
        labels = self._labels if self.by == "labels" else rows
        found = evaluate_arrays(
            query,
            gallery,
            query_labels=labels,
            gallery_labels=labels,
            self_rows=rows if self.by == "labels" else None,
            metrics=(self.metric,),
        )
        return found.mean(self.metric)


def _rank_correlation(left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]) -> float:
    """Spearman's; 0 where one side is constant. Equal values take the order of the rows: of measured numbers few are."""
    ranks = [np.argsort(np.argsort(side, kind="stable"), kind="stable") for side in (left, right)]
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
