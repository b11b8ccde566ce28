"""Between a query of the old model and the new model's query in the old space, on the great circle through both."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["Slerp"]

# below this angle (or this near to opposite) the sines cancel; the straight line is the same there, or as good
_SMALL = 1e-3


class Slerp(nn.Module):
    """The map [v, u] → sin((1 − α)θ)/sin θ · û + sin(αθ)/sin θ · b, b the direction of W v̂ and θ the angle between û and b.

    Args:
        in_width: D_n of v and `D_o` of u together; u stands behind v.
        out_width: `D_o`.
        share: α, how much of the way from û to b.
    """

    def __init__(self, in_width: int, out_width: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.turn = nn.Linear(in_width - out_width, out_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D_n + D_o] → [B, D_o] of norm 1, less where the two are opposite."""
        new, old = x.tensor_split((self.turn.in_features,), dim=-1)
        start, end = normalize(old, dim=-1), normalize(self.turn(normalize(new, dim=-1)), dim=-1)
        # from the chords: the arc cosine has no precision where the angle is small
        angle = 2 * torch.atan2((start - end).norm(dim=-1, keepdim=True), (start + end).norm(dim=-1, keepdim=True))
        sine = torch.sin(angle)
        bent = (torch.sin((1 - self.share) * angle) * start + torch.sin(self.share * angle) * end) / sine
        return torch.where(sine.abs() < _SMALL, (1 - self.share) * start + self.share * end, bent)
