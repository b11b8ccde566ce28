"""Moving old prototypes apart by optimisation, the inner problem of ODPP.

With p̃ = norm(p + Δ), unit old prototypes p and unit current new prototypes q, over Δ [C, D]:

    min  1/C Σ_c [ Σ_{j∈H_o(c)} (⟨p̃_c, p̃_j⟩ − τ_o)₊ + Σ_{j∈H_n(c)} (⟨p̃_c, q_j⟩ − τ_n)₊ ] + μ‖Δ‖²_F / C

H are the hard neighbours of c, never c itself: all other classes while C is small, the nearest 64 beyond. After each step
p̃ is brought back into the cone cos(p, p̃) ≥ κ. A step that raises the objective is undone and the rate halved, so it
never rises between two choices of neighbours.

C classes, D width, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from featstore_training.neighbours import nearest, row_blocks

__all__ = ["Adam", "Pairs", "Problem", "perturb", "perturbed", "trust_region"]

DENSE_CLASSES = 5000  # up to here every pair is a neighbour: one C × C product a step
NEIGHBOURS = 64
REBUILD_STEPS = 10  # how long a list of neighbours is used
SLACK = 0.1  # neighbours this far below the threshold are listed: as much as a few steps may bring them closer
EDGE_BLOCK = 65536


@dataclass(frozen=True, slots=True)
class Problem:
    """What is minimised.

    Attributes:
        old: p, unit [C, D], zero where not known.
        known: Classes that have an old prototype, bool [C]; others are never moved and repel nothing.
        new: q, unit [C, D]; None leaves the second sum out.
        tau_old: τ_o.
        tau_new: τ_n.
        mu: μ.
        kappa: κ; −1 for no cone.
        dense_classes: Up to how many classes all pairs are taken.
    """

    old: Tensor
    known: Tensor
    new: Tensor | None
    tau_old: float
    tau_new: float
    mu: float
    kappa: float
    dense_classes: int = DENSE_CLASSES


@dataclass(slots=True)
class Adam:
    """Moments of Adam (Kingma & Ba 2015) for one tensor, kept by the objective so that a resumed run has them.

    Attributes:
        first, second: Running means of the gradient and its square, [C, D].
        step: Steps taken, int64 scalar tensor.
    """

    first: Tensor
    second: Tensor
    step: Tensor

    def direction(self, gradient: Tensor) -> Tensor:
        """Take in a gradient; the step to subtract at rate 1."""
        self.step += 1
        self.first.mul_(0.9).add_(gradient, alpha=0.1)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        steps = int(self.step)
        first = self.first / (1 - 0.9**steps)
        second = self.second / (1 - 0.999**steps)
        return first / (second.sqrt() + 1e-8)


def perturbed(old: Tensor, delta: Tensor) -> Tensor:
    """p̃ = norm(p + Δ), [C, D]."""
    return functional.normalize(old + delta, dim=1)


def trust_region(old: Tensor, delta: Tensor, kappa: float) -> Tensor:
    """Δ with every p̃ inside the cone cos(p, p̃) ≥ κ; rows already inside are returned as they are."""
    moved = perturbed(old, delta)
    cosine = (old * moved).sum(dim=1, keepdim=True)
    sideways = functional.normalize(moved - cosine * old, dim=1)
    rim = kappa * old + (1 - kappa**2) ** 0.5 * sideways
    return torch.where(cosine < kappa, rim - old, delta)


@torch.no_grad()
def perturb(problem: Problem, delta: Tensor, adam: Adam, *, steps: int, rate: float) -> list[tuple[float, float]]:
    """Take `steps` steps from `delta`, which is changed in place, as are the moments.

    Returns:
        (objective, its hinge part) at the start and after each step; a step that was undone repeats its predecessor's.
    """
    pairs = Pairs.choose(problem, delta)
    value, hinge, gradient = pairs.evaluate(delta)
    trace = [(float(value), float(hinge))]
    for number in range(steps):
        if pairs.sparse and number and number % REBUILD_STEPS == 0:
            pairs = Pairs.choose(problem, delta)
            value, hinge, gradient = pairs.evaluate(delta)
        candidate = trust_region(problem.old, delta - rate * adam.direction(gradient), problem.kappa)
        new_value, new_hinge, new_gradient = pairs.evaluate(candidate)
        if new_value <= value:
            delta.copy_(candidate)
            value, hinge, gradient = new_value, new_hinge, new_gradient
        else:
            rate /= 2
        trace.append((float(value), float(hinge)))
    return trace


@dataclass(frozen=True, slots=True)
class Pairs:
    """A problem with its choice of neighbours.

    Attributes:
        problem: The problem.
        near_old, near_new: Pairs (class, neighbour) among old and new, int64 [2, E]; None for all pairs.
    """

    problem: Problem
    near_old: Tensor | None
    near_new: Tensor | None

    @property
    def sparse(self) -> bool:
        """Whether only listed neighbours count."""
        return self.near_old is not None

    @classmethod
    def choose(cls, problem: Problem, delta: Tensor) -> Pairs:
        """The neighbours where prototypes stand now."""
        if len(problem.old) <= problem.dense_classes:
            return cls(problem, None, None)
        moved = perturbed(problem.old, delta)
        near_new = None if problem.new is None else _close(moved, problem.new, problem.known, problem.tau_new)
        return cls(problem, _close(moved, moved, problem.known, problem.tau_old), near_new)

    def evaluate(self, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objective, hinge part, and the gradient with respect to Δ [C, D]."""
        problem = self.problem
        raw = problem.old + delta
        norm = raw.norm(dim=1, keepdim=True).clamp(min=1e-12)  # unknown classes are zero
        moved = raw / norm
        hinge, gradient = self._hinge(moved, moved, self.near_old, problem.tau_old, both=True)
        if problem.new is not None:
            more, against_new = self._hinge(moved, problem.new, self.near_new, problem.tau_new, both=False)
            hinge, gradient = hinge + more, gradient + against_new
        gradient = (gradient - (gradient * moved).sum(dim=1, keepdim=True) * moved) / norm  # through the normalisation
        gradient = gradient + 2 * problem.mu / len(delta) * delta
        return hinge + problem.mu * delta.square().sum() / len(delta), hinge, gradient

    def _hinge(
        self, moved: Tensor, other: Tensor, near: Tensor | None, tau: float, *, both: bool
    ) -> tuple[Tensor, Tensor]:
        """1/C Σ (⟨moved_c, other_j⟩ − τ)₊ and its gradient; `both`: `other` is `moved` and takes its share too."""
        known = self.problem.known
        total, gradient = moved.new_zeros(()), torch.zeros_like(moved)
        if near is None:
            for rows in row_blocks(len(moved)):
                excess = moved[rows] @ other.T - tau
                active = (excess > 0) & known & known[rows, None]
                active.scatter_(1, rows[:, None], value=False)
                weight = active.to(moved.dtype)
                gradient[rows] += weight @ other
                if both:
                    gradient += weight.T @ moved[rows]
                total += (excess * weight).sum()
        else:
            for edges in torch.split(near, EDGE_BLOCK, dim=1):
                left, right = moved[edges[0]], other[edges[1]]
                excess = (left * right).sum(dim=1) - tau
                weight = (excess > 0).to(moved.dtype)
                gradient.index_add_(0, edges[0], weight[:, None] * right)
                if both:
                    gradient.index_add_(0, edges[1], weight[:, None] * left)
                total += (excess * weight).sum()
        return total / len(moved), gradient / len(moved)


def _close(moved: Tensor, other: Tensor, known: Tensor, tau: float) -> Tensor:
    """Pairs (class, one of its `NEIGHBOURS` nearest others) with a cosine above τ − `SLACK`, int64 [2, E]."""
    cosine, index = nearest(moved, other, NEIGHBOURS, known=known, own=False)
    rows, places = ((cosine > tau - SLACK) & known[:, None]).nonzero(as_tuple=True)
    return torch.stack([rows, index[rows, places]])
