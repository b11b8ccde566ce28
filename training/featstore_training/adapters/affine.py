"""From a matrix that was solved for to a map."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featstore.maps import AffineConfig, FeatureMap, build_map

__all__ = ["affine_map"]


def affine_map(*factors: NDArray[np.float64], bias: NDArray[np.float64] | None = None) -> FeatureMap:
    """The map x → norm(W x̂ + b), float32.

    Args:
        factors: W [D_out, D_in], or [r, D_in] and [D_out, r], applied in this order.
        bias: b [D_out]; None for 0.
    """
    first, last = factors[0], factors[-1]
    module = build_map(AffineConfig(rank=len(first) if len(factors) > 1 else None), first.shape[1], len(last))
    layers = [layer for layer in module.body.children() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer, factor in zip(layers, factors, strict=True):
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(factor)))
        layers[-1].bias.copy_(torch.zeros(len(last)) if bias is None else torch.from_numpy(bias))
    return module.eval()
