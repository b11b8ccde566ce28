"""What methods share that align with old prototypes after moving them apart.

C classes, D old width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from featstore_training.neighbours import nearest
from featstore_training.objectives.base import ClassSide, Current
from featstore_training.objectives.prototype_softmax import PrototypeObjective, PrototypeParams

__all__ = ["PerturbParams", "PerturbedObjective"]


class PerturbParams(PrototypeParams):
    """Settings that both perturbations have.

    Attributes:
        perturb: `both` moves every column of the softmax; `positive_only` only a row's own, as the public code does.
        refresh_every: Epochs between refreshes.
        warmup: Share of the epochs before the first refresh, while new prototypes mean little.
    """

    perturb: Literal["both", "positive_only"] = "both"
    refresh_every: int = Field(default=2, ge=1)
    warmup: float = Field(default=1 / 6, ge=0, le=1)


class PerturbedObjective(PrototypeObjective):
    """ℒ = CE(head(fⁿ), y) + λ·CE(γ·cos(fⁿ, p̃_c), y), p̃ unit and kept close to p by the method."""

    def __init__(self, params: Any, side: ClassSide) -> None:
        super().__init__(params, side)
        self.perturbation: PerturbParams = params
        self.first_refresh = max(1, round(params.warmup * side.epochs))

    @abstractmethod
    def moved(self) -> Tensor:
        """p̃, unit [C, D]; zero for unknown classes."""

    @abstractmethod
    def move(self, current: Current | None) -> dict[str, float]:
        """Perturb again, before training without new features; figures for the log."""

    def columns(self) -> tuple[Tensor, Tensor | None]:
        """Every column moved, or a row's own only."""
        return (self.moved(), None) if self.perturbation.perturb == "both" else (self.prototype, self.moved())

    def begin(self) -> list[str]:
        """Perturb with the old prototypes alone."""
        if int(self.known.sum()) < 2:
            return [f"{self.name}: fewer than two classes have old prototypes, so none is moved; it trains as bct"]
        self.move(None)
        return []

    def refresh(self, epoch: int, current: Current) -> dict[str, float]:
        """Perturb with the current new prototypes, every `refresh_every` epochs after the warm-up."""
        waited = epoch - self.first_refresh
        if waited < 0 or waited % self.perturbation.refresh_every or int(self.known.sum()) < 2:
            return {}
        figures = self.move(current)
        kept = (self.prototype * self.moved()).sum(dim=1)[self.known]
        return {
            **figures,
            "prototype_cosine": float(kept.mean()),
            "prototype_cosine_min": float(kept.min()),
            "nearest_before": self._nearest(self.prototype),
            "nearest_after": self._nearest(self.moved()),
        }

    @torch.no_grad()
    def _nearest(self, prototypes: Tensor) -> float:
        """Mean cosine of a class with the nearest other one."""
        values, _ = nearest(prototypes, prototypes, 1, known=self.known, own=False)
        return float(values[self.known].mean())
