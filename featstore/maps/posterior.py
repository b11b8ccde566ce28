"""What a model takes an image for, said as a query of another space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["Posterior"]


class Posterior(nn.Module):
    """The map x → β · norm(Σ_c p_c q_c) + (1 − β) · norm(W x̂), p = softmax_c(γ · ⟨x̂, k_c⟩).

    Args:
        in_width: `D_in`.
        out_width: `D_out`.
        classes: C.
        scale: γ.
        share: β.

    Attributes:
        keys: k_c, where the classes lie in the space that comes in, [C, D_in].
        queries: q_c, what finds them in the space that goes out, [C, D_out]; 0 for a class that nothing is known of there.
        straight: W, [D_out, D_in].
    """

    def __init__(self, in_width: int, out_width: int, classes: int, scale: float, share: float) -> None:
        super().__init__()
        self.scale = scale
        self.share = share
        self.keys = nn.Parameter(torch.zeros(classes, in_width))
        self.queries = nn.Parameter(torch.zeros(classes, out_width))
        self.straight = nn.Parameter(torch.zeros(out_width, in_width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, D_in] → [B, D_out], of any norm."""
        x = normalize(x, dim=-1)
        posterior = torch.softmax(self.scale * (x @ self.keys.T), dim=-1)
        known = normalize(posterior @ self.queries, dim=-1)
        return self.share * known + (1 - self.share) * normalize(x @ self.straight.T, dim=-1)
