"""What the basis transformation of BT² puts on features: on cached ones as a map, or on a network as its last layer.

B batch, D_in and D_out widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["RotatedParts"]


class RotatedParts(nn.Module):
    """x → R·[u/‖u‖, C·v/‖v‖] with [u, v] = linear(x) and a learned rotation R = exp(S − Sᵀ), the identity at first.

    Args:
        in_width: `D_in`.
        out_width: `D_out`.
        extra: Components of u.
        ratio: C.
    """

    def __init__(self, in_width: int, out_width: int, extra: int, ratio: float) -> None:
        super().__init__()
        self.extra = extra
        self.ratio = ratio
        self.linear = nn.Linear(in_width, out_width)
        self.skew = nn.Parameter(torch.zeros(out_width, out_width))

    def rotation(self) -> Tensor:
        """R, orthogonal [D_out, D_out]."""
        rotation: Tensor = torch.linalg.matrix_exp(self.skew - self.skew.T)
        return rotation

    def forward(self, x: Tensor) -> Tensor:
        """[B, D_in] → [B, D_out] of norm √(1 + C²)."""
        first, second = self.linear(x).tensor_split((self.extra,), dim=-1)
        parts = torch.cat([normalize(first, dim=-1), self.ratio * normalize(second, dim=-1)], dim=-1)
        out: Tensor = parts @ self.rotation().T
        return out

    def second_part(self, out: Tensor) -> Tensor:
        """The direction of v, from outputs of any norm: [B, D_out] → [B, D_out − extra]."""
        return (out @ self.rotation())[..., self.extra :]
