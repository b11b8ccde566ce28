"""Basis transformation: extra components and a rotation, so that compatibility takes nothing from the new features.

B batch, D_n new width, D_o old width, S width of the side features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore.errors import UsageError
from featstore.maps import BasisConfig, MapConfig
from featstore.rotated_parts import RotatedParts
from featstore.strict import Strict
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, Need, Objective
from featstore_training.objectives.prototype_softmax import prototype_softmax
from featstore_training.objectives.registry import objective

__all__ = ["Bt2", "Bt2Params"]


class Bt2Params(Strict):
    """Settings of `bt2`.

    Attributes:
        keep: λ₁, the new part stays at the unconstrained new feature (`--side`); without one the term is left out.
        influence: λ₂ of the prototype softmax.
        align: λ₃, the first components point where the old feature does.
        scale: γ of the prototype softmax; None takes the head's.
    """

    what: ClassVar[str] = "params of bt2"

    keep: float = Field(default=1.0, ge=0)
    influence: float = Field(default=10.0, ge=0)
    align: float = Field(default=5.0, ge=0)
    scale: float | None = Field(default=None, gt=0)


@objective(
    "bt2",
    summary="extra components and a rotation whose first components are compatible, the whole being unconstrained",
    paper="Zhou et al., BT²: Backward-compatible Training with Basis Transformation, ICCV 2023",
)
class Bt2(Objective):
    """ℒ = CE(head(fⁿ), y) + λ₂·CE(γ·cos(fⁿ₁, p_c), y) + λ₃·mean_i (1 − cos(fⁿ₁, fᵒ)) + λ₁·mean_i (1 − cos(v, s)).

    fⁿ = R·[û, C·v̂] comes from a `basis` map, on cached features or on a backbone: û are `extra` components learned for
    the old model's sake, v̂ the new feature proper, R a learned rotation. fⁿ₁ are the first D_o components of fⁿ, which
    query the old gallery; s is the cached feature of an unconstrained new model (`--side`), of the width of v.
    """

    Params = Bt2Params
    needs = frozenset({"label", "old_feature", "prototype"})
    defaults: ClassVar[Mapping[str, Any]] = {"map": {"name": "basis"}, "bridge": "truncate"}
    prototype: Tensor
    known: Tensor

    def __init__(self, params: Bt2Params, side: ClassSide) -> None:
        super().__init__()
        self.params = params
        body = getattr(side.module, "body", None)
        if not isinstance(body, RotatedParts):
            raise UsageError(
                "bt2 rotates the parts of a 'basis' map", hint="--set map.name=basis, or leave the map out"
            )
        self._body = (body,)  # in a tuple, so that it is no submodule
        prototypes = side.required_prototypes()
        self.register_buffer("prototype", prototypes.unit())
        self.register_buffer("known", prototypes.known)

    @classmethod
    def needs_with(cls, params: Any, *, side: bool = False) -> frozenset[Need]:
        """The side feature too, if there is one."""
        del params
        return cls.needs | ({"side"} if side else frozenset())

    @classmethod
    def default_width(cls, architecture: MapConfig, new: int, old: int | None, side: int | None) -> int:
        """The width of the new feature proper and the extra components."""
        extra = architecture.extra if isinstance(architecture, BasisConfig) else 0
        return (side or old or new) + extra

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `classification`, `influence`, `align` and, with a side feature, `keep`."""
        params, compared = self.params, batch.compared
        scale = params.scale or head.scale
        influence = prototype_softmax(compared, batch.label, self.prototype, self.known, scale)
        terms = {
            "classification": self.classification(batch, head),
            "influence": params.influence * influence,
            "align": params.align * _turn(compared, batch.columns["old_feature"]),
        }
        if "side" in batch.columns:
            [body] = self._body
            terms["keep"] = params.keep * _turn(body.second_part(batch.feature), batch.columns["side"])
        return terms


def _turn(left: Tensor, right: Tensor) -> Tensor:
    """Mean of 1 − cos over rows."""
    return (1 - functional.cosine_similarity(left, right, dim=1)).mean()
