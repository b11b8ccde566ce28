"""No compatibility at all: what the new features can do when nothing holds them, and the row every table needs."""

from __future__ import annotations

from torch import Tensor

from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, NoParams, Objective
from featstore_training.objectives.registry import objective

__all__ = ["Independent"]


@objective("independent", summary="classification only; not compatible with anything", paper="(baseline)")
class Independent(Objective):
    """ℒ = CE(head(fⁿ), y)."""

    compares = False
    old_optional = True

    def __init__(self, params: NoParams, side: ClassSide) -> None:
        super().__init__()
        del params, side

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """One term, `classification`."""
        return {"classification": self.classification(batch, head)}
