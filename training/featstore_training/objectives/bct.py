"""Backward-compatible training against old class prototypes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from featstore_training.heads import CosineSoftmax
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.prototype_softmax import prototype_softmax
from featstore_training.objectives.registry import objective
from featstore_training.strict import Strict

__all__ = ["Bct", "BctParams"]


class BctParams(Strict):
    """Settings of `bct`.

    Attributes:
        weight: λ.
        scale: γ of the prototype softmax; None takes the head's.
    """

    what: ClassVar[str] = "params of bct"

    weight: float = Field(1.0, ge=0)
    scale: float | None = Field(None, gt=0)


@objective(
    "bct",
    summary="new features must be classified right by the old class prototypes too",
    paper="Shen et al., Towards Backward-Compatible Representation Learning, CVPR 2020",
)
class Bct(Objective):
    """ℒ = CE(head(fⁿ), y) + λ·CE(γ·cos(fⁿ, p_c), y), p_c the normalised mean of unit old features of class c.

    The prototypes come from the old features of the *new* training images (the paper's synthesised classifier), so
    classes the old model never saw have one as well. They are normalised and scaled, where the paper uses raw means:
    cosines in [−1, 1] give a nearly flat softmax otherwise.
    """

    Params = BctParams
    needs = frozenset({"label", "prototype"})
    prototype: Tensor
    known: Tensor

    def __init__(self, params: BctParams, side: ClassSide) -> None:
        super().__init__()
        self.params = params
        prototypes = side.required_prototypes()
        self.register_buffer("prototype", prototypes.unit())
        self.register_buffer("known", prototypes.known)

    def loss(self, batch: Batch, head: CosineSoftmax) -> dict[str, Tensor]:
        """Terms `classification` and `influence`."""
        influence = prototype_softmax(
            batch.feature, batch.label, self.prototype, self.known, self.params.scale or head.scale
        )
        return {
            "classification": head.loss(batch.feature, batch.label),
            "influence": self.params.weight * influence,
        }
