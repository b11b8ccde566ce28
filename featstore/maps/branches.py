"""The network of FCT: the old feature and its side-information on a branch each, then together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["Branches", "fold"]


class Branches(nn.Module):
    """D_o → 2D_o → 2D_n beside S → 2S → 2D_n, joined → hidden → hidden → D_n (Ramanujan et al., CVPR 2022).

    Every layer but the last is followed by ReLU. Without side-information both branches read the old feature.

    Args:
        in_width: D_o and the widths of the sides together.
        out_width: `D_n`.
        side: Width of each side set, in the order of the columns.
        hidden: Width of the joined layers.
        unit: Give the old feature and every side L2 norm 1 first.
        norm: Batch norm in front of every ReLU, as in training; `fold` makes it part of the linear layers.

    Attributes:
        frozen: Batch norm keeps its running statistics, in training mode too.
    """

    def __init__(
        self, in_width: int, out_width: int, *, side: Sequence[int], hidden: int, unit: bool, norm: bool = False
    ) -> None:
        super().__init__()
        self.widths = [in_width - sum(side), *side]
        self.unit = unit
        self.frozen = False
        old, beside = self.widths[0], sum(side) or self.widths[0]
        self.old = nn.Sequential(*_block(old, 2 * old, norm), *_block(2 * old, 2 * out_width, norm))
        self.side = nn.Sequential(*_block(beside, 2 * beside, norm), *_block(2 * beside, 2 * out_width, norm))
        self.joined = nn.Sequential(
            *_block(4 * out_width, hidden, norm), *_block(hidden, hidden, norm), nn.Linear(hidden, out_width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, D_in] → [B, D_out], of any norm."""
        parts: Sequence[Tensor] = torch.split(x, self.widths, dim=-1)
        if self.unit:
            parts = [normalize(part, dim=-1) for part in parts]
        beside = torch.cat(list(parts[1:]), dim=-1) if len(parts) > 1 else parts[0]
        out: Tensor = self.joined(torch.cat([self.old(parts[0]), self.side(beside)], dim=-1))
        return out

    def train(self, mode: bool = True) -> Branches:
        """As everywhere in torch, but frozen statistics stay."""
        super().train(mode)
        if self.frozen:
            for layer in self.modules():
                if isinstance(layer, nn.BatchNorm1d):
                    layer.eval()
        return self


def _block(width: int, out: int, norm: bool) -> list[nn.Module]:
    if norm:
        return [nn.Linear(width, out, bias=False), nn.BatchNorm1d(out), nn.ReLU()]
    return [nn.Linear(width, out), nn.ReLU()]


@torch.no_grad()
def fold(trained: Branches, plain: Branches) -> None:
    """Make `plain` compute what `trained`, built with batch norm, computes in eval mode."""
    layers = [layer for layer in trained.modules() if isinstance(layer, nn.Linear | nn.BatchNorm1d)]
    linears = [layer for layer in plain.modules() if isinstance(layer, nn.Linear)]
    for place, layer in enumerate(layers):
        if not isinstance(layer, nn.Linear):
            continue
        target = linears.pop(0)
        following = layers[place + 1] if place + 1 < len(layers) else None
        if not isinstance(following, nn.BatchNorm1d):
            target.load_state_dict(layer.state_dict())
            continue
        # what it makes of 0 and of 1 tells the line that it is in eval mode
        following.eval()
        offset = following(torch.zeros(1, following.num_features))[0]
        scale = following(torch.ones(1, following.num_features))[0] - offset
        target.weight.copy_(layer.weight * scale[:, None])
        target.bias.copy_(offset)
