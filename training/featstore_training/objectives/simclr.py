"""Side-information from images alone: two views of an image are to be alike, and unlike those of all others.

B batch, D feature width, P width of the projection.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from featstore.strict import Strict
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.registry import objective

__all__ = ["Simclr", "SimclrParams", "two_view_loss"]


class SimclrParams(Strict):
    """Settings of `simclr`.

    Attributes:
        temperature: τ.
        projection: Width of the projection, which is left behind when training is over; null compares features themselves.
    """

    what: ClassVar[str] = "params"

    temperature: float = Field(default=0.5, gt=0)
    projection: int | None = Field(default=64, gt=0)


@objective(
    "simclr",
    summary="views of one image alike, of different images not; side-information for fct, no label, full mode",
    paper="Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020",
)
class Simclr(Objective):
    """ℒ = mean over all 2B views of −log [exp(cos(zᵢ, z_j)/τ) / Σ_{k≠i} exp(cos(zᵢ, z_k)/τ)], j the other view of i's image.

    z = W₂ ReLU(W₁ f) is a projection that is trained along; f is what is kept.
    """

    Params = SimclrParams
    needs = frozenset()
    compares = False
    old_optional = True
    views_per_step = 2

    def __init__(self, params: SimclrParams, side: ClassSide) -> None:
        super().__init__()
        self.params = params
        if side.bridge is None:
            raise LookupError("this objective must know the width of the features")
        width = side.bridge.new_width
        self.project: nn.Module = nn.Identity()
        if params.projection:
            self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, params.projection))

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """One term, `contrast`."""
        del head
        first, second = batch.both_views()
        return {"contrast": two_view_loss(self.project(first), self.project(second), self.params.temperature)}


def two_view_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views [B, P] of the same images, of any norm: a scalar."""
    views = functional.normalize(torch.cat([first, second]), dim=1)
    logits = views @ views.T / temperature
    logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool), float("-inf"))
    other = torch.arange(len(views)).roll(len(first))
    return functional.cross_entropy(logits, other)
