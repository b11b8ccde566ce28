"""Optimisation-driven prototype perturbation: align with old prototypes that were first moved apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from featstore_training.heads import CosineSoftmax
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.perturbation import Adam, Problem, perturb, perturbed
from featstore_training.objectives.prototype_softmax import prototype_softmax
from featstore_training.objectives.registry import objective
from featstore_training.prototypes import Prototypes
from featstore_training.strict import Strict

__all__ = ["Odpp", "OdppParams"]

FIGURE_CLASSES = 2000  # figures for the log look at this many classes at most


class OdppParams(Strict):
    """Settings of `odpp`.

    Attributes:
        weight: λ.
        scale: γ of the prototype softmax; None takes the head's.
        perturb: `both` moves every column of the softmax; `positive_only` only a row's own, as the public code does.
        tau_old: τ_o, the cosine above which two old prototypes repel each other.
        tau_new: τ_n, the same against current new prototypes; None takes τ_o.
        new_term: Whether current new prototypes repel old ones of other classes at all.
        mu: μ, the price of moving.
        kappa: κ, the least cosine between a prototype and its moved form; −1 for no bound.
        rate: Adam's rate.
        start_steps: Steps before training, against old prototypes only.
        refresh_steps: Steps at each refresh.
        refresh_every: Epochs between refreshes.
        warmup: Share of the epochs before the first refresh, while new prototypes mean little.
    """

    what: ClassVar[str] = "params of odpp"

    weight: float = Field(1.0, ge=0)
    scale: float | None = Field(None, gt=0)
    perturb: Literal["both", "positive_only"] = "both"
    tau_old: float = Field(0.4, ge=-1, le=1)
    tau_new: float | None = Field(None, ge=-1, le=1)
    new_term: bool = True
    mu: float = Field(0.5, ge=0)
    kappa: float = Field(0.8, ge=-1, lt=1)
    rate: float = Field(0.01, gt=0)
    start_steps: int = Field(100, ge=0)
    refresh_steps: int = Field(30, ge=0)
    refresh_every: int = Field(2, ge=1)
    warmup: float = Field(1 / 6, ge=0, le=1)


@objective(
    "odpp",
    summary="bct against old prototypes that an inner optimisation moves apart where classes crowd",
    paper="Zhou et al., arXiv:2503.14824, 2025",
)
class Odpp(Objective):
    """ℒ = CE(head(fⁿ), y) + λ·CE(γ·cos(fⁿ, p̃_c), y) with p̃ = norm(p + Δ); Δ solves the problem in `perturbation`.

    Δ starts from the old prototypes alone and is refreshed, warm-started, with the current new prototypes. Without a
    violated pair Δ stays 0 and the loss is that of `bct`. The paper's training code is not public; where the group's
    released perturbation code differs (only the positive column moves, a class may repel itself, few random pairs),
    this follows the paper's idea, and `perturb="positive_only"` gives their softmax.
    """

    Params = OdppParams
    needs = frozenset({"label", "prototype"})
    prototype: Tensor
    known: Tensor
    delta: Tensor
    adam_first: Tensor
    adam_second: Tensor
    adam_step: Tensor

    def __init__(self, params: OdppParams, side: ClassSide) -> None:
        super().__init__()
        self.params = params
        prototypes = side.required_prototypes()
        unit = prototypes.unit()
        self.register_buffer("prototype", unit)
        self.register_buffer("known", prototypes.known)
        self.register_buffer("delta", torch.zeros_like(unit))
        self.register_buffer("adam_first", torch.zeros_like(unit))
        self.register_buffer("adam_second", torch.zeros_like(unit))
        self.register_buffer("adam_step", torch.zeros((), dtype=torch.int64))
        self.first_refresh = max(1, round(params.warmup * side.epochs))

    def moved(self) -> Tensor:
        """p̃, unit [C, D]."""
        return perturbed(self.prototype, self.delta)

    def loss(self, batch: Batch, head: CosineSoftmax) -> dict[str, Tensor]:
        """Terms `classification` and `influence`."""
        moved = self.moved()
        columns, own = (moved, None) if self.params.perturb == "both" else (self.prototype, moved)
        influence = prototype_softmax(
            batch.feature, batch.label, columns, self.known, self.params.scale or head.scale, own
        )
        return {
            "classification": head.loss(batch.feature, batch.label),
            "influence": self.params.weight * influence,
        }

    def begin(self) -> list[str]:
        """Solve for Δ against the old prototypes alone; notes when nothing repels."""
        self._solve(None, self.params.start_steps)
        if int(self.known.sum()) < 2:
            return ["odpp: fewer than two classes have old prototypes, so none is moved; it trains as bct"]
        cosines = self._other_cosines()
        if float(cosines.max()) <= self.params.tau_old:
            note = (
                f"odpp: no two old prototypes have a cosine above tau_old = {self.params.tau_old:g}, so none is moved "
                f"before the first refresh and it trains as bct; 95 % of the cosines lie below "
                f"{float(cosines.quantile(0.95)):.2f}"
            )
            return [note]
        return []

    def refresh(self, epoch: int, current: Callable[[], Prototypes]) -> dict[str, float]:
        """Continue from the present Δ with the current new prototypes, every `refresh_every` epochs after the warm-up."""
        waited = epoch - self.first_refresh
        if waited < 0 or waited % self.params.refresh_every:
            return {}
        new = current().unit().to(self.prototype.dtype) if self.params.new_term else None
        trace = self._solve(new, self.params.refresh_steps)
        kept = (self.prototype * self.moved()).sum(dim=1)[self.known]
        return {
            "hinge_before": trace[0][1],
            "hinge_after": trace[-1][1],
            "prototype_cosine": float(kept.mean()),
            "prototype_cosine_min": float(kept.min()),
            "nearest_before": self._nearest(self.prototype),
            "nearest_after": self._nearest(self.moved()),
        }

    def _solve(self, new: Tensor | None, steps: int) -> list[tuple[float, float]]:
        params = self.params
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
        return perturb(problem, self.delta, adam, steps=steps, rate=params.rate)

    def _other_cosines(self) -> Tensor:
        """Cosines of pairs of different known classes, flat."""
        known = self.prototype[self.known][:FIGURE_CLASSES]
        upper = torch.ones(len(known), len(known), dtype=torch.bool).triu(1)
        return (known @ known.T)[upper]

    def _nearest(self, prototypes: Tensor) -> float:
        """Mean cosine of a class with the nearest other one."""
        known = prototypes[self.known][:FIGURE_CLASSES]
        cosines = known @ known.T
        cosines.fill_diagonal_(-1.0)
        return float(cosines.max(dim=1).values.mean())
