"""What FastFill trains a map by: features of another model, its frozen classifier, and how far off the map expects to be.

B batch, C classes, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore_training.heads import Head
from featstore_training.objectives.base import Batch
from featstore_training.objectives.regression import Regression, RegressionParams

__all__ = ["UncertainParams", "UncertainRegression"]

# e^-10 to e^10: beyond, a row that fits perfectly would take all weight, and one that does not none
BOUND = 10.0


class UncertainParams(RegressionParams):
    """Settings of a regression that knows its uncertainty.

    Attributes:
        similarity: Weight of the error of the features.
        discrimination: Weight of the cross-entropy of the frozen classifier.
        smoothing: Share of the label that is spread over all classes.
        uncertainty: Weight of the log-variance; with 0.5 the learned variance of a row is its expected loss.
    """

    what: ClassVar[str] = "params of a regression with uncertainty"

    similarity: float = Field(default=1.0, ge=0)
    discrimination: float = Field(default=1.0, ge=0)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    uncertainty: float = Field(default=0.5, gt=0)


class UncertainRegression(Regression):
    """ℒ = mean_i [½ e^(−ςᵢ) bᵢ + μ_u ςᵢ], bᵢ = μ_sim · error(zᵢ, yᵢ) + μ_disc · CE(head(zᵢ), labelᵢ).

    The network puts out [z, ς] side by side. Rows of classes that the classifier does not know (label −1) have no second
    part in bᵢ. Jaeckle et al., FastFill, ICLR 2023.
    """

    Params = UncertainParams
    params: UncertainParams

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `similarity`, `discrimination` and `uncertainty`."""
        params = self.params
        feature, log_variance = batch.feature[:, :-1], batch.feature[:, -1].clamp(-BOUND, BOUND)
        share = 0.5 * torch.exp(-log_variance)
        wrong = functional.cross_entropy(
            head.logits(feature), batch.label, ignore_index=-1, label_smoothing=params.smoothing, reduction="none"
        )
        return {
            "similarity": (share * params.similarity * self.errors(feature, batch.columns["target"])).mean(),
            "discrimination": (share * params.discrimination * wrong).mean(),
            "uncertainty": params.uncertainty * log_variance.mean(),
        }
