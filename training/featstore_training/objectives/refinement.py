"""Structural prototype refinement: old class means in which rows count as much as their new-space neighbours trust them.

n rows of a class.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["refined_weights"]

# rows of a class whose n × n graph is solved at once; a larger class is refined in parts of this size
LIMIT = 4096


def refined_weights(new: Tensor, *, temperature: float, strength: float, graph: Literal["row", "column"]) -> Tensor:
    """Weights w of the rows of one class, float64 [n], that sum to 1; the refined prototype is Σ wᵢ fᵒᵢ.

    With Ω = softmax(F̂ F̂ᵀ/τ) without its diagonal, old features spread along the graph until V = (1−λ)(I−λΩ)⁻¹ Fᵒ, and the
    prototype is the mean of V: w = (1−λ)(I−λΩᵀ)⁻¹ 1/n.

    Args:
        new: New features of the rows, [n, D] of any norm.
        temperature: τ.
        strength: λ, below 1.
        graph: `row` normalises each row of Ω, so that rows many others point to gain weight. `column`, as in public code,
            makes 1ᵀΩ = 1ᵀ, whence w = 1/n whatever the features: a no-op.
    """
    if len(new) > LIMIT:
        parts = torch.split(new, LIMIT)
        refined = [refined_weights(p, temperature=temperature, strength=strength, graph=graph) for p in parts]
        return torch.cat([part * len(part) / len(new) for part in refined])
    count = len(new)
    uniform = torch.full((count,), 1 / count, dtype=torch.float64)
    if count == 1:
        return uniform
    unit = functional.normalize(new.double(), dim=1)
    affinity = (unit @ unit.T / temperature).fill_diagonal_(float("-inf"))
    omega = affinity.softmax(dim=1 if graph == "row" else 0)
    system = torch.eye(count, dtype=torch.float64) - strength * omega.T
    weights: Tensor = (1 - strength) * torch.linalg.solve(system, uniform)
    return weights
