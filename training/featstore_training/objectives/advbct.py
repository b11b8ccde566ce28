"""Adversarial backward-compatible training: no telling new from old features, and an elastic boundary around each class.

B batch, C classes, D old width.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from featstore.strict import Strict
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.radii import class_radii
from featstore_training.objectives.registry import objective

__all__ = ["AdvBct", "AdvBctParams"]


class AdvBctParams(Strict):
    """Settings of `advbct`.

    Attributes:
        boundary: Weight of the boundary term.
        adversarial: Weight of the adversarial term, which falls to 1/E of it over E epochs.
        tau: τ, towards which a class's radius may grow or shrink.
        hidden: Width of the discriminator.
    """

    what: ClassVar[str] = "params of advbct"

    boundary: float = Field(default=1.0, ge=0)
    adversarial: float = Field(default=1.0, ge=0)
    tau: float = Field(default=1.0, gt=0)
    hidden: int = Field(default=100, ge=1)


@objective(
    "advbct",
    summary="an adversary that cannot tell new from old features, and a learned radius around each old class",
    paper="Pan et al., Boundary-Aware Backward-Compatible Representation via Adversarial Learning, CVPR 2023",
)
class AdvBct(Objective):
    """ℒ = CE(head(fⁿ), y) + boundary + (E − e + 1)/E·adversarial in epoch e of E.

    boundary: mean of ‖f̂ⁿ − c_y‖₂ − r_y over the rows where it is positive, c_y the mean of unit old features (not
    normalised), r = r_max ± |r_max − τ|·σ(w) on the side of τ with w learned, r_max the largest usual distance of an old
    row to c. Classes of fewer than two rows have no boundary.
    adversarial: −log of a discriminator's probabilities (linear, batch norm, ReLU, linear) that f̂ⁿ is new and f̂ᵒ old,
    each a mean over rows; the map gets the gradient reversed, with strength 2/(1 + e^(−10p)) − 1 at progress p.
    """

    Params = AdvBctParams
    needs = frozenset({"label", "old_feature", "prototype"})
    centre: Tensor
    bounded: Tensor
    radius: Tensor

    def __init__(self, params: AdvBctParams, side: ClassSide) -> None:
        super().__init__()
        self.params = params
        self._epochs = side.epochs
        prototypes, old = side.required_prototypes(), side.required_old()
        means = prototypes.means
        self.register_buffer("centre", means)
        distances = class_radii(old, lambda code, rows: (rows - means[code]).norm(dim=1), fences=True)
        self.register_buffer("bounded", ~distances.isnan())
        self.register_buffer("radius", distances.nan_to_num().to(means.dtype))
        self.elastic = nn.Parameter(torch.empty(side.classes, dtype=means.dtype).uniform_(-1, 1))
        width = means.shape[1]
        self.discriminator = nn.Sequential(
            nn.Linear(width, params.hidden), nn.BatchNorm1d(params.hidden), nn.ReLU(), nn.Linear(params.hidden, 2)
        )

    def boundaries(self) -> Tensor:
        """R of every class [C]; means nothing where `bounded` is false."""
        stretch = (self.radius - self.params.tau).abs() * self.elastic.sigmoid()
        return torch.where(self.radius < self.params.tau, self.radius + stretch, self.radius - stretch)

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `classification`, `boundary` and `adversarial`."""
        new = functional.normalize(batch.compared, dim=1)
        fading = (self._epochs - batch.epoch) / self._epochs
        return {
            "classification": self.classification(batch, head),
            "boundary": self.params.boundary * self._outside(new, batch.label),
            "adversarial": self.params.adversarial * fading * self._telling(new, batch),
        }

    def _outside(self, new: Tensor, label: Tensor) -> Tensor:
        excess = (new - self.centre[label]).norm(dim=1) - self.boundaries()[label]
        violating = excess[(excess > 0) & self.bounded[label]]
        return violating.mean() if len(violating) else new.sum() * 0

    def _telling(self, new: Tensor, batch: Batch) -> Tensor:
        if len(new) < 2:
            return new.sum() * 0  # batch norm needs two rows
        strength = 2 / (1 + math.exp(-10 * batch.progress)) - 1
        reversed_: Tensor = _Reversed.apply(new, strength)  # type: ignore[no-untyped-call]
        old = batch.columns["old_feature"]
        verdict = self.discriminator(torch.cat([reversed_, old]))
        is_old = torch.arange(len(verdict)) >= len(new)
        return 2 * functional.cross_entropy(
            verdict, is_old.long()
        )  # as many old rows as new ones: the sum of both means


class _Reversed(torch.autograd.Function):
    """The same forward; the gradient times −strength backward."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return feature.view_as(feature)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return -ctx.strength * gradients[0], None
