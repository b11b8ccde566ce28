"""Neighbour-driven prototype perturbation: old prototypes pushed away from their neighbours in both spaces.

C classes, K neighbours, D old width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore_training.neighbours import nearest, row_blocks
from featstore_training.objectives.base import ClassSide, Current
from featstore_training.objectives.perturbed_prototypes import PerturbedObjective, PerturbParams
from featstore_training.objectives.registry import objective

__all__ = ["Ndpp", "NdppParams", "push"]


class NdppParams(PerturbParams):
    """Settings of `ndpp`.

    Attributes:
        neighbours: K.
        eta_old: η_o, push away from old neighbours.
        eta_new: η_n, push away from current new neighbours of other classes.
        as_coded: The displacement as public code computes it: η_o multiplies twice, negative cosines weigh, and the own
            class's new prototype may be a neighbour.
    """

    what: ClassVar[str] = "params of ndpp"

    neighbours: int = Field(default=10, ge=1)
    eta_old: float = Field(default=0.4, ge=0)
    eta_new: float = Field(default=0.2, ge=0)
    as_coded: bool = False


@objective(
    "ndpp",
    summary="bct against old prototypes pushed away from their old and new neighbours",
    paper="Zhou et al., arXiv:2503.14824, 2025",
    forms={
        "positive_only": {"perturb": "positive_only"},
        "as_coded": {
            "perturb": "positive_only",
            "as_coded": True,
            "neighbours": 100,
            "eta_old": 0.4,
            "eta_new": 0.01,
            "scale": 1 / 0.07,
        },
    },
)
class Ndpp(PerturbedObjective):
    """ℒ = CE(head(fⁿ), y) + λ·CE(γ·cos(fⁿ, p̃_c), y), p̃_c = norm(p_c + η_o ρᵒ_c + η_n ρⁿ_c).

    ρᵒ is the mean of p_c − p_k over the K old prototypes nearest to p_c, weighted by cosines above 0, and ρⁿ the mean of
    p_c − q_k over current new prototypes of other classes. With η_o = η_n = 0 it is `bct`.
    """

    Params = NdppParams
    perturbed: Tensor

    def __init__(self, params: NdppParams, side: ClassSide) -> None:
        super().__init__(params, side)
        self.params = params
        self.register_buffer("perturbed", self.prototype.clone())

    def moved(self) -> Tensor:
        """p̃, unit [C, D]."""
        return self.perturbed

    @torch.no_grad()
    def move(self, current: Current | None) -> dict[str, float]:
        """Compute p̃ anew from p and the current new prototypes."""
        params, old = self.params, self.prototype
        shift = params.eta_old * push(old, old, self.known, params.neighbours, own=False, clamp=not params.as_coded)
        if current is not None and params.eta_new:
            new = current.prototypes()
            directions = new.unit().to(old.dtype)
            shift += params.eta_new * push(
                old, directions, new.known, params.neighbours, own=params.as_coded, clamp=not params.as_coded
            )
        if params.as_coded:
            shift *= params.eta_old
        self.perturbed.copy_(functional.normalize(old + shift * self.known[:, None], dim=1))
        return {}


def push(old: Tensor, others: Tensor, known: Tensor, count: int, *, own: bool, clamp: bool) -> Tensor:
    """ρ_c = Σ_k w_ck (p_c − o_k) / Σ_k w_ck over the nearest others, w their cosines, [C, D].

    Args:
        old: p, unit [C, D].
        others: o, unit [C, D].
        known: Which of them exist, bool [C].
        count: K.
        own: Whether o_c counts for p_c.
        clamp: Count cosines below 0 as 0.
    """
    cosine, index = nearest(old, others, count, known=known, own=own)
    weight = cosine.masked_fill(cosine.isneginf(), 0.0)
    if clamp:
        weight = weight.clamp(min=0)
    share = weight / (weight.sum(dim=1, keepdim=True) + 1e-8)
    pulled = [torch.einsum("ck,ckd->cd", share[rows], others[index[rows]]) for rows in row_blocks(len(old))]
    return share.sum(dim=1, keepdim=True) * old - torch.cat(pulled)
