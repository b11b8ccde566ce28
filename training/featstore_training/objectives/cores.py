"""Stationary features: every generation is drawn to the same fixed class vertices, so all are mutually comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, NoParams, Objective
from featstore_training.objectives.registry import objective

__all__ = ["Cores"]


@objective(
    "cores",
    summary="classification by the fixed vertices of a simplex, the same in every generation",
    paper="Biondi et al., CoReS: Compatible Representations via Stationarity, TPAMI 2023",
)
class Cores(Objective):
    """ℒ = CE(γ·cos(fⁿ, v_c), y), v_c the vertex of class c in a regular simplex that never changes.

    Nothing of the old model is read but which class stands on which vertex; the first generation has no old one.
    """

    old_optional = True
    defaults: ClassVar[Mapping[str, Any]] = {"head": {"name": "simplex"}}

    def __init__(self, params: NoParams, side: ClassSide) -> None:
        super().__init__()
        del params, side

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """One term, `classification`."""
        return {"classification": self.classification(batch, head)}
