"""How new features of one width are compared with old features of another.

B batch, D_n new width, D_o old width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from featstore.errors import TrainingError
from featstore.maps import FeatureMap, LinearConfig, build_map

__all__ = ["Bridge", "BridgePolicy", "check_bridge", "make_bridge"]

BridgePolicy = Literal["truncate", "pad", "project"]


class Bridge(nn.Module):
    """New features [B, D_n] → what is compared with old ones, [B, D_o]; the base passes equal widths through.

    Mixing goes the other way too: old and new features of one batch meet at `mixing_width`.

    Args:
        new_width: `D_n`.
        old_width: `D_o`.

    Attributes:
        policy: Its name in the card; None for equal widths.
        mixing_width: Width at which old rows stand in for new ones.
    """

    policy: BridgePolicy | None = None

    def __init__(self, new_width: int, old_width: int) -> None:
        super().__init__()
        self.new_width = new_width
        self.old_width = old_width
        self.mixing_width = old_width

    def forward(self, feature: Tensor) -> Tensor:
        """[B, D_n] → [B, D_o], not normalised."""
        return feature

    def lift(self, old: Tensor) -> Tensor:
        """Old features at `mixing_width`."""
        return old

    def mixing_side(self, feature: Tensor) -> Tensor:
        """New features at `mixing_width`."""
        compared: Tensor = self(feature)
        return compared

    def back(self, old: Tensor) -> Tensor:
        """[B, D_o] → [B, D_n], the transposed way: padded for truncation, cut for padding, Wᵀ for a matrix W."""
        lifted: Tensor = old if self.policy is None else old @ self(torch.eye(self.new_width, dtype=old.dtype)).T
        return lifted

    @torch.no_grad()
    def as_map(self) -> FeatureMap:
        """The same as a linear map with unit outputs, to be saved and applied to whole feature sets."""
        module = build_map(LinearConfig(), self.new_width, self.old_width)
        weight = self(torch.eye(self.new_width)).T
        module.body.load_state_dict({"weight": weight, "bias": torch.zeros(self.old_width)})
        return module


class _Truncate(Bridge):
    """The first D_o components. In a mixture old rows get zeros behind, so that every new component is trained."""

    policy = "truncate"

    def __init__(self, new_width: int, old_width: int) -> None:
        super().__init__(new_width, old_width)
        self.mixing_width = new_width

    def forward(self, feature: Tensor) -> Tensor:
        return feature[:, : self.old_width]

    def lift(self, old: Tensor) -> Tensor:
        return functional.pad(old, (0, self.new_width - self.old_width))

    def mixing_side(self, feature: Tensor) -> Tensor:
        return feature


class _Pad(Bridge):
    """Zeros behind the new components."""

    policy = "pad"

    def forward(self, feature: Tensor) -> Tensor:
        return functional.pad(feature, (0, self.old_width - self.new_width))


class _Project(Bridge):
    """A learned matrix without bias, trained together with the map."""

    policy = "project"

    def __init__(self, new_width: int, old_width: int) -> None:
        super().__init__(new_width, old_width)
        self.matrix = nn.Linear(new_width, old_width, bias=False)

    def forward(self, feature: Tensor) -> Tensor:
        projected: Tensor = self.matrix(feature)
        return projected


def make_bridge(policy: BridgePolicy | None, new_width: int, old_width: int) -> Bridge:
    """The bridge a run asked for; a projection draws its start from torch's global generator.

    Args:
        policy: How different widths are compared; None only if they are equal.
        new_width: `D_n`.
        old_width: `D_o`.
    """
    made = {None: Bridge, "truncate": _Truncate, "pad": _Pad, "project": _Project}[policy]
    return made(new_width, old_width)


def check_bridge(policy: BridgePolicy | None, new_width: int, old_width: int) -> None:
    """Raise TrainingError if widths differ and nothing says how to compare them, or the policy does not fit them."""
    if policy is None and new_width != old_width:
        free = "truncate" if new_width > old_width else "pad"
        raise TrainingError(
            f"new features of width {new_width} shall be compared with old ones of width {old_width}; "
            "a cosine needs equal widths",
            hint=f"--width {old_width}, or say how: --bridge project (learned) or --bridge {free}",
        )
    fits = {"truncate": new_width > old_width, "pad": new_width < old_width}
    if policy in fits and not fits[policy]:
        raise TrainingError(
            f"bridge '{policy}' does not lead from width {new_width} to width {old_width}",
            hint="truncate needs a larger new width, pad a smaller one; project takes any",
        )
