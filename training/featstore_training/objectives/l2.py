"""Regression onto the cached old feature of the same image, with an optional dead zone ("weakened L2")."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore.strict import Strict
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.registry import objective

__all__ = ["L2", "L2Params"]


class L2Params(Strict):
    """Settings of `l2`.

    Attributes:
        weight: λ.
        theta: θ, the distance that costs nothing; 0 is plain L2, 0.2 the published weakened form.
    """

    what: ClassVar[str] = "params of l2"

    weight: float = Field(default=10.0, ge=0)
    theta: float = Field(default=0.0, ge=0, lt=2)


@objective(
    "l2",
    summary="distance to the old feature of the same image, with a dead zone",
    paper="baseline in Liang et al., MixBCT, 2023",
    forms={"weakened": {"theta": 0.2}},
)
class L2(Objective):
    """ℒ = CE(head(fⁿ), y) + λ·mean_i max(0, ‖f̂ⁿᵢ − f̂ᵒᵢ‖₂ − θ). The norm is not squared."""

    Params = L2Params
    needs = frozenset({"label", "old_feature"})
    paired = True

    def __init__(self, params: L2Params, side: ClassSide) -> None:
        super().__init__()
        del side
        self.params = params

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `classification` and `distance`."""
        gap = torch.linalg.vector_norm(
            functional.normalize(batch.compared, dim=1) - batch.columns["old_feature"], dim=1
        )
        distance = (gap - self.params.theta).clamp(min=0).mean()
        return {
            "classification": self.classification(batch, head),
            "distance": self.params.weight * distance,
        }
