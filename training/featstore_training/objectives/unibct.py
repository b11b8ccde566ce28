"""Universal backward-compatible training: prototypes refined by the structure of the new space."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore_training.objectives.base import ClassSide, Current
from featstore_training.objectives.prototype_softmax import PrototypeObjective, PrototypeParams
from featstore_training.objectives.refinement import refined_weights
from featstore_training.objectives.registry import objective
from featstore_training.prototypes import Prototypes

__all__ = ["UniBct", "UniBctParams"]


class UniBctParams(PrototypeParams):
    """Settings of `unibct`.

    Attributes:
        graph: `row` normalises rows of the neighbour graph; `column`, as public code does, changes nothing.
        temperature: τ of the graph.
        strength: λ of the propagation.
        refresh_at: Shares of the epochs after which prototypes are refined with the current new features.
        weight_before: λ of the influence term before the first refinement, with plain prototypes.
    """

    what: ClassVar[str] = "params of unibct"

    graph: Literal["row", "column"] = "row"
    temperature: float = Field(default=0.05, gt=0)
    strength: float = Field(default=0.9, ge=0, lt=1)
    refresh_at: tuple[float, ...] = (10 / 35, 20 / 35)
    weight_before: float = Field(default=0.0, ge=0)


@objective(
    "unibct",
    summary="bct against old prototypes refined along the neighbour graph of the new space",
    paper="Zhang et al., Towards Universal Backward-Compatible Representation Learning, IJCAI 2022",
    forms={"column": {"graph": "column"}},
)
class UniBct(PrototypeObjective):
    """ℒ = CE(head(fⁿ), y) + w(e)·CE(γ·cos(fⁿ, p_c), y), p_c = norm(Σᵢ wᵢ f̂ᵒᵢ) with the weights in `refinement`.

    w(e) is `weight_before` until the first refinement. Prototypes stay as they are between refinements.
    """

    Params = UniBctParams
    needs = frozenset({"label", "old_feature", "prototype"})
    refinements: Tensor

    def __init__(self, params: UniBctParams, side: ClassSide) -> None:
        super().__init__(params, side)
        self.params = params
        self._epochs = {max(1, round(share * side.epochs)) for share in params.refresh_at}
        self.register_buffer("refinements", torch.zeros((), dtype=torch.int64))

    @property
    def weight(self) -> float:
        """λ, which waits for the first refinement."""
        return self.params.weight if int(self.refinements) else self.params.weight_before

    def refresh(self, epoch: int, current: Current) -> dict[str, float]:
        """Refine, at the epochs `refresh_at` names."""
        if epoch not in self._epochs:
            return {}
        means = torch.zeros(self.prototype.shape, dtype=torch.float64)
        counts = torch.zeros(len(means), dtype=torch.int64)
        for code, new, old in current.by_class():
            weights = refined_weights(
                new, temperature=self.params.temperature, strength=self.params.strength, graph=self.params.graph
            )
            means[code] = weights @ old.double()
            counts[code] = len(old)
        refined = Prototypes(means.to(self.prototype.dtype), counts)
        before = self.prototype.clone()
        self.prototype.copy_(self.directions(refined))
        self.refinements += 1
        return {"moved_cosine": float(functional.cosine_similarity(before, self.prototype)[self.known].mean())}
