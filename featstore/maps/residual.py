"""A linear map with a small network beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

__all__ = ["Residual"]


class Residual(nn.Module):
    """The map x → A x̂ + b + W₂ GELU(W₁ x̂ + b₁); W₂ is 0 at first.

    Args:
        in_width: `D_in`.
        out_width: `D_out`.
        hidden: Rows of W₁.
    """

    def __init__(self, in_width: int, out_width: int, hidden: int) -> None:
        super().__init__()
        self.straight = nn.Linear(in_width, out_width)
        self.first = nn.Linear(in_width, hidden)
        self.second = nn.Linear(hidden, out_width, bias=False)
        with torch.no_grad():
            self.second.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[B, D_in] → [B, D_out], of any norm."""
        x = normalize(x, dim=-1)
        out: Tensor = self.straight(x) + self.second(gelu(self.first(x)))
        return out
