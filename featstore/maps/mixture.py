"""Linear maps of several regions, blended by how near a feature lies to the centre of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["Mixture"]


class Mixture(nn.Module):
    """The map x → Σ_k w_k W_k x̂, w = softmax(sharpness · cos(x, c_k)).

    Args:
        in_width: `D_in`.
        out_width: `D_out`.
        parts: K.
        sharpness: How fast the blend turns to the nearest centre.

    Attributes:
        centres: Unit c_k, [K, D_in].
        weight: W_k one below another, [K · D_out, D_in].
    """

    centres: Tensor
    weight: Tensor

    def __init__(self, in_width: int, out_width: int, parts: int, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.register_parameter("centres", nn.Parameter(torch.zeros(parts, in_width)))
        self.register_parameter("weight", nn.Parameter(torch.zeros(parts * out_width, in_width)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, D_in] → [B, D_out], of any norm."""
        x = normalize(x, dim=-1)
        share = torch.softmax(self.sharpness * (x @ self.centres.T), dim=-1)
        mapped = (x @ self.weight.T).view(*share.shape, -1)
        out: Tensor = (share.unsqueeze(-1) * mapped).sum(dim=-2)
        return out
