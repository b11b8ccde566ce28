"""Optimisation-driven prototype perturbation: align with old prototypes that were first moved apart."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from featstore_training.neighbours import nearest
from featstore_training.objectives.base import ClassSide, Current
from featstore_training.objectives.perturbation import Adam, Problem, perturb, perturbed
from featstore_training.objectives.perturbed_prototypes import PerturbedObjective, PerturbParams
from featstore_training.objectives.registry import objective

__all__ = ["Odpp", "OdppParams"]


class OdppParams(PerturbParams):
    """Settings of `odpp`.

    Attributes:
        tau_old: τ_o, the cosine above which two old prototypes repel each other.
        tau_new: τ_n, the same against current new prototypes; None takes τ_o.
        new_term: Whether current new prototypes repel old ones of other classes at all.
        mu: μ, the price of moving.
        kappa: κ, the least cosine between a prototype and its moved form; −1 for no bound.
        rate: Adam's rate.
        start_steps: Steps before training, against old prototypes only.
        refresh_steps: Steps at each refresh.
    """

    what: ClassVar[str] = "params of odpp"

    tau_old: float = Field(default=0.4, ge=-1, le=1)
    tau_new: float | None = Field(default=None, ge=-1, le=1)
    new_term: bool = True
    mu: float = Field(default=0.5, ge=0)
    kappa: float = Field(default=0.8, ge=-1, lt=1)
    rate: float = Field(default=0.01, gt=0)
    start_steps: int = Field(default=100, ge=0)
    refresh_steps: int = Field(default=30, ge=0)


@objective(
    "odpp",
    summary="bct against old prototypes that an inner optimisation moves apart where classes crowd",
    paper="Zhou et al., arXiv:2503.14824, 2025",
    forms={"positive_only": {"perturb": "positive_only"}},
)
class Odpp(PerturbedObjective):
    """ℒ = CE(head(fⁿ), y) + λ·CE(γ·cos(fⁿ, p̃_c), y) with p̃ = norm(p + Δ); Δ solves the problem in `perturbation`.

    Δ starts from the old prototypes alone and is refreshed, warm-started, with the current new prototypes. Without a
    violated pair Δ stays 0 and the loss is that of `bct`. The paper's training code is not public; where the group's
    released perturbation code differs (only the positive column moves, a class may repel itself, few random pairs),
    this follows the paper's idea, and `odpp:positive_only` gives their softmax.
    """

    Params = OdppParams
    delta: Tensor
    adam_first: Tensor
    adam_second: Tensor
    adam_step: Tensor

    def __init__(self, params: OdppParams, side: ClassSide) -> None:
        super().__init__(params, side)
        self.params = params
        for name in ("delta", "adam_first", "adam_second"):
            self.register_buffer(name, torch.zeros_like(self.prototype))
        self.register_buffer("adam_step", torch.zeros((), dtype=torch.int64))

    def moved(self) -> Tensor:
        """p̃, unit [C, D]."""
        return perturbed(self.prototype, self.delta)

    def begin(self) -> list[str]:
        """Solve for Δ against the old prototypes alone; notes when nothing repels."""
        notes = super().begin()
        if notes:
            return notes
        closest, _ = nearest(self.prototype, self.prototype, 1, known=self.known, own=False)
        closest = closest[self.known].flatten()
        if float(closest.max()) <= self.params.tau_old:
            note = (
                f"odpp: no two old prototypes have a cosine above tau_old = {self.params.tau_old:g}, so none is moved "
                "before the first refresh and it trains as bct; half of the classes have their nearest at "
                f"{float(closest.median()):.2f} or above"
            )
            return [note]
        return []

    def move(self, current: Current | None) -> dict[str, float]:
        """Continue from the present Δ."""
        params = self.params
        new = current.prototypes().unit().to(self.prototype.dtype) if current and params.new_term else None
        problem = Problem(
            old=self.prototype,
            known=self.known,
            new=new,
            tau_old=params.tau_old,
            tau_new=params.tau_old if params.tau_new is None else params.tau_new,
            mu=params.mu,
            kappa=params.kappa,
        )
        adam = Adam(self.adam_first, self.adam_second, self.adam_step)
        steps = params.refresh_steps if current else params.start_steps
        trace = perturb(problem, self.delta, adam, steps=steps, rate=params.rate)
        return {"hinge_before": trace[0][1], "hinge_after": trace[-1][1]}
