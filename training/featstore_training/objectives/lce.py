"""Learning compatible embeddings: class weights onto old centres, new features within the reach of the old class.

B batch, C classes, D old width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore.strict import Strict
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.radii import class_radii
from featstore_training.objectives.registry import objective

__all__ = ["Lce", "LceParams"]


class LceParams(Strict):
    """Settings of `lce`.

    Attributes:
        align: Weight of the alignment; the mean over components makes it 1/D of a squared distance.
        boundary: Weight of the boundary.
        measure: `cosine` as published; `angle` as another public re-implementation has it, see the class.
    """

    what: ClassVar[str] = "params of lce"

    align: float = Field(default=100.0, ge=0)
    boundary: float = Field(default=1.0, ge=0)
    measure: Literal["cosine", "angle"] = "cosine"


@objective(
    "lce",
    summary="class weights aligned with old centres, new features no farther out than the old class reaches",
    paper="Meng et al., Learning Compatible Embeddings, ICCV 2021",
    forms={"angle": {"measure": "angle", "align": 1.0}},
)
class Lce(Objective):
    """ℒ = CE(head(fⁿ), y) + λ_a·align + λ_b·boundary with old centres p (unit) and unit class weights w of the head.

    `cosine`: align = mean over classes and components of (w − p)², boundary = mean_i (cos_min(y) − cos(fⁿ, p_y))₊ with
    cos_min the least cosine of an old row of the class to p. `lce:angle`: align = mean_i 1 − cos(w_y, p_y), boundary =
    mean_i (∠(fⁿ, p_y) − θ_y)₊ with θ the largest usual angle of an old row; λ_a = 1. Classes of fewer than two rows have
    no boundary.
    """

    Params = LceParams
    needs = frozenset({"label", "old_feature", "prototype"})
    centre: Tensor
    known: Tensor
    reach: Tensor

    def __init__(self, params: LceParams, side: ClassSide) -> None:
        super().__init__()
        self.params = params
        self._bridge = (side.bridge,)  # in a tuple, so that it is no submodule
        prototypes, old = side.required_prototypes(), side.required_old()
        centre = prototypes.unit()
        self.register_buffer("centre", centre)
        self.register_buffer("known", prototypes.known)
        if params.measure == "cosine":
            reach = -class_radii(old, lambda code, rows: -rows @ centre[code], fences=False)
        else:
            reach = class_radii(old, lambda code, rows: _angle(rows @ centre[code]), fences=True)
        self.register_buffer("reach", reach.to(centre.dtype))

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `classification`, `align` and `boundary`."""
        cosine = (functional.normalize(batch.compared, dim=1) * self.centre[batch.label]).sum(dim=1)
        reach = self.reach[batch.label]
        excess = reach - cosine if self.params.measure == "cosine" else _angle(cosine) - reach
        return {
            "classification": self.classification(batch, head),
            "align": self.params.align * self._align(batch.label, head),
            "boundary": self.params.boundary * torch.where(reach.isnan(), 0.0, excess).clamp(min=0).mean(),
        }

    def _align(self, label: Tensor, head: Head) -> Tensor:
        weight = functional.normalize(self._compared(head.weight), dim=1)
        if self.params.measure == "angle":
            counted = label[self.known[label]]
            gaps = 1 - (weight[counted] * self.centre[counted]).sum(dim=1)
            return gaps.mean() if len(gaps) else weight.sum() * 0
        return (weight - self.centre)[self.known].square().mean()

    def _compared(self, weight: Tensor) -> Tensor:
        [bridge] = self._bridge
        compared: Tensor = weight if bridge is None else bridge(weight)
        return compared


def _angle(cosine: Tensor) -> Tensor:
    edge = 1 - 1e-6  # the arc has no finite slope at its ends
    return cosine.clamp(-edge, edge).acos()
