"""Scoring a map or backbone on validation rows to choose the epoch whose weights are kept.

Q validation rows, every one a query against all others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featstore.evaluate import evaluate_arrays
from featstore_training.inputs import Inputs

__all__ = ["Validation", "ValidationScore", "harmonic"]


@dataclass(frozen=True, slots=True)
class ValidationScore:
    """One epoch's validation.

    Attributes:
        self_test: New queries in the new gallery.
        cross_test: New queries in the old gallery; None without an old set to compare with.
        score: What selection maximises.
    """

    self_test: float
    cross_test: float | None
    score: float

    def as_json(self) -> dict[str, Any]:
        """For the log."""
        return asdict(self)


def harmonic(first: float, second: float) -> float:
    """The harmonic mean of two values ≥ 0; 0 if either is."""
    return 2 * first * second / (first + second) if first > 0 and second > 0 else 0.0


class Validation:
    """Leave-one-out retrieval among the validation rows.

    The score is harmonic(cross / old_old, self / reference_self), so that neither axis can be bought with the other; by
    self alone when the method does not aim at compatibility.

    Args:
        inputs: What is mapped or encoded, Q rows.
        labels: int64 [Q].
        old: Old features [Q, D_o]; None if there are none that new ones can be compared with.
        by_cross: Whether the cross-test counts in the score.
        metric: Name of a metric.
        raw: Features whose self-test says what the new side can do before training, [Q, D]; None if there are none.
        reference_self: Divides the self-test; None takes that of `raw`, or else old/old.
    """

    def __init__(
        self,
        inputs: Inputs,
        labels: NDArray[np.int64],
        old: NDArray[np.floating[Any]] | None,
        *,
        by_cross: bool,
        metric: str,
        raw: NDArray[np.floating[Any]] | None,
        reference_self: float | None,
    ) -> None:
        self._inputs = inputs
        self._labels = labels
        self._old = old
        self._by_cross = by_cross
        self._metric = metric
        self.raw_self = None if raw is None else self._measure(raw, raw)
        self.old_old = None if old is None else self._measure(old, old)
        self.reference_self = next(
            (value for value in (reference_self, self.raw_self, self.old_old) if value is not None), None
        )

    def as_json(self) -> dict[str, Any]:
        """What scores are relative to."""
        return {
            "metric": self._metric,
            "rows": len(self._labels),
            "old_old": self.old_old,
            "raw_new_self": self.raw_self,
            "reference_self": self.reference_self,
        }

    @torch.no_grad()
    def score(self, module: nn.Module, bridge: nn.Module | None = None) -> ValidationScore:
        """Map or encode, and measure; the cross-test compares what the bridge makes of the outputs."""
        was_training = module.training
        module.eval()
        features = torch.cat([module(block) for _, block in self._inputs.blocks()])
        module.train(was_training)
        mapped = features.numpy()
        compared = mapped if bridge is None else bridge(features).numpy()
        self_test = self._measure(mapped, mapped)
        cross_test = None if self._old is None else self._measure(compared, self._old)
        score = self_test
        if self._by_cross and cross_test is not None and self.old_old is not None and self.reference_self is not None:
            least = float(np.finfo(np.float64).tiny)
            score = harmonic(cross_test / max(self.old_old, least), self_test / max(self.reference_self, least))
        return ValidationScore(self_test, cross_test, score)

    def _measure(self, query: NDArray[np.floating[Any]], gallery: NDArray[np.floating[Any]]) -> float:
        return evaluate_arrays(
            query,
            gallery,
            query_labels=self._labels,
            gallery_labels=self._labels,
            self_rows=np.arange(len(self._labels)),
            metrics=(self._metric,),
        ).mean(self._metric)
