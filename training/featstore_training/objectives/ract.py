"""Contrastive compatibility in the batch: the own old feature against hard old and new features of other classes.

B batch, K negatives, D old width.
"""

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

__all__ = ["Ract", "RactParams"]


class RactParams(Strict):
    """Settings of `ract`.

    Attributes:
        weight: λ.
        temperature: τ.
        negatives: K, the hardest of each kind; fewer where the batch has not as many.
        new_negatives: Whether new features of other classes are negatives too, which keeps a query from preferring a
            wrong new gallery row while the gallery is refreshed.
    """

    what: ClassVar[str] = "params of ract"

    weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.01, gt=0)
    negatives: int = Field(default=10, ge=1)
    new_negatives: bool = True


@objective(
    "ract",
    summary="the old feature of the same image against hard old and new ones of other classes in the batch",
    paper="Zhang et al., Hot-Refresh Model Upgrades with Regression-Alleviating Compatible Training, ICLR 2022",
    forms={"contra": {"new_negatives": False}},
)
class Ract(Objective):
    """ℒ = CE(head(fⁿ), y) − λ·mean_i log softmax₀([⟨f̂ⁿᵢ, f̂ᵒᵢ⟩, ⟨f̂ⁿᵢ, f̂ᵒ_j⟩ …, ⟨f̂ⁿᵢ, f̂ⁿ_j⟩ …]/τ).

    j runs over the K rows of other classes in the batch with the highest products, for old and new separately.
    `ract:contra` leaves the new ones out.
    """

    Params = RactParams
    needs = frozenset({"label", "old_feature"})
    paired = True

    def __init__(self, params: RactParams, side: ClassSide) -> None:
        super().__init__()
        del side
        self.params = params

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `classification` and `contrast`."""
        new, old = functional.normalize(batch.compared, dim=1), batch.columns["old_feature"]
        same = batch.label[:, None] == batch.label
        logits = [(new * old).sum(dim=1, keepdim=True), self._hardest(new @ old.T, same)]
        if self.params.new_negatives:
            logits.append(self._hardest(new @ new.T, same))
        contrast = torch.cat(logits, dim=1) / self.params.temperature
        target = torch.zeros(len(new), dtype=torch.int64)
        return {
            "classification": self.classification(batch, head),
            "contrast": self.params.weight * functional.cross_entropy(contrast, target),
        }

    def _hardest(self, products: Tensor, same: Tensor) -> Tensor:
        count = min(self.params.negatives, len(products))
        return products.masked_fill(same, float("-inf")).topk(count, dim=1).values
