"""Classifiers on top of features, used while training and stored with the run.

B batch, C classes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CosineSoftmax"]

INIT_STD = 0.01  # as in the insightface-derived public code of the field


class CosineSoftmax(nn.Module):
    """Softmax over γ·cos(feature, class weight); no bias, no margin.

    Args:
        classes: `C`.
        width: `D`.
        scale: γ, the inverse temperature.
        generator: Draws the initial weights, 𝒩(0, 0.01²).
    """

    name = "cosine-softmax"
    margin = 0.0

    def __init__(self, classes: int, width: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(classes, width, generator=generator) * INIT_STD)

    def logits(self, feature: Tensor) -> Tensor:
        """γ·cos of features [B, D] (any norm) with every class, [B, C]."""
        return self.scale * functional.normalize(feature, dim=1) @ functional.normalize(self.weight, dim=1).T

    def loss(self, feature: Tensor, label: Tensor) -> Tensor:
        """Mean cross-entropy; `label` is int64 [B]."""
        return functional.cross_entropy(self.logits(feature), label)
