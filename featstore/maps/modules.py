"""The map itself: x → normalise(body((x − mean) / std)), with the body that its config names."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featstore.errors import AlignmentError, NonFiniteError
from featstore.maps.branches import Branches
from featstore.maps.config import (
    AffineConfig,
    BasisConfig,
    BranchesConfig,
    LinearConfig,
    MapConfig,
    MixtureConfig,
    PosteriorConfig,
    ResidualConfig,
    SlerpConfig,
)
from featstore.maps.mixture import Mixture
from featstore.maps.posterior import Posterior
from featstore.maps.residual import Residual
from featstore.maps.slerp import Slerp
from featstore.rotated_parts import RotatedParts

__all__ = ["FeatureMap", "UnitInput", "build_map"]

# a spread below this share of the mean is rounding of float32 features (whose ulp is 1.2e-7), not signal
_CONSTANT = 1e-6


class FeatureMap(nn.Module):
    """Features of one space → features of another, row by row.

    Args:
        config: What the map is made of.
        in_width: `D_in`.
        out_width: `D_out`.

    Attributes:
        mean: Mean of the inputs it was fitted to, float32 [D_in]; 0 until `fit_input`.
        std: Their standard deviation, float32 [D_in], 1 where an input is constant; 1 until `fit_input`.

    Example:
        >>> module = build_map(LinearConfig(), in_width=4, out_width=2)
        >>> module(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: MapConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.in_width = in_width
        self.out_width = out_width
        self.register_buffer("mean", torch.zeros(in_width))
        self.register_buffer("std", torch.ones(in_width))
        self.body = _body(config, in_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, D_in] → float32 [B, D_out], of L2 norm 1 if the config says so (a zero row stays zero)."""
        out: Tensor = self.body(self._standardised(x))
        return unit_rows(out) if self.config.normalise else out

    def write(self, x: Tensor, out: Tensor) -> None:
        """The same, into `out` [B, D_out]; without gradient."""
        standardised = self._standardised(x)
        linear = _only_linear(self.body) if self.config.normalise else None
        # the length of a row changes only the length of what comes out, which is taken off anyway: two passes less
        mapped = self.body(standardised) if linear is None else standardised @ linear.T
        if self.config.normalise:
            torch.mul(mapped, reciprocal_norms(mapped), out=out)
        else:
            out.copy_(mapped)

    def _standardised(self, x: Tensor) -> Tensor:
        # most maps were fitted to no statistics: looking at them costs less than a pass over the batch
        if not self.mean.any() and bool((self.std == 1).all()):
            return x
        return (x - self.mean) / self.std

    @torch.no_grad()
    def fit_input(self, mean: Tensor | NDArray[Any], std: Tensor | NDArray[Any]) -> None:
        """Standardise inputs with these statistics from now on.

        Args:
            mean: Mean of each input, [D_in], any float dtype.
            std: Standard deviation of each input, [D_in], ≥ 0. A constant input gets 1.

        Raises:
            AlignmentError: a shape other than [D_in].
            NonFiniteError: NaN, infinity or a negative deviation.
        """
        means, stds = (torch.as_tensor(values).to("cpu", torch.float64) for values in (mean, std))
        if means.shape != (self.in_width,) or stds.shape != (self.in_width,):
            raise AlignmentError(
                f"input statistics of shapes {tuple(means.shape)} and {tuple(stds.shape)} for {self.in_width} inputs"
            )
        if not (means.isfinite() & stds.isfinite() & (stds >= 0)).all():
            raise NonFiniteError("input statistics hold NaN, infinity or a negative deviation")
        self.mean.copy_(means)
        self.std.copy_(torch.where(stds <= _CONSTANT * means.abs(), 1.0, stds))


def _only_linear(body: nn.Module) -> Tensor | None:
    """W [D_out, D_in] of a body that is W x̂, x̂ of norm 1, and nothing else; None for any other."""
    if not (isinstance(body, nn.Sequential) and len(body) == 2 and isinstance(body[0], UnitInput)):
        return None
    layer = body[1]
    return layer.weight if isinstance(layer, nn.Linear) and not layer.bias.any() else None


class UnitInput(nn.Module):
    """[B, D_in] → the same with L2 norm 1; a zero row stays zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows of norm 1."""
        return unit_rows(x)


def unit_rows(x: Tensor) -> Tensor:
    """[B, D] → the same with L2 norm 1; a zero row stays zero. `normalize` takes twice as long."""
    return x * reciprocal_norms(x)


def reciprocal_norms(x: Tensor) -> Tensor:
    """[B, D] → [B, 1], of norms that are at least 1e-12."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norms.clamp_min(1e-12).reciprocal()


def build_map(config: MapConfig, in_width: int, out_width: int) -> FeatureMap:
    """A fresh map with torch's default initialisation, drawn from the global generator, and no input statistics yet."""
    return FeatureMap(config, in_width, out_width)


def _body(config: MapConfig, in_width: int, out_width: int) -> nn.Module:
    if isinstance(config, AffineConfig):
        if config.rank is None:
            return nn.Sequential(UnitInput(), nn.Linear(in_width, out_width))
        down, up = nn.Linear(in_width, config.rank, bias=False), nn.Linear(config.rank, out_width)
        return nn.Sequential(UnitInput(), down, up)
    if isinstance(config, LinearConfig):
        return nn.Linear(in_width, out_width)
    if isinstance(config, ResidualConfig):
        return Residual(in_width, out_width, config.hidden)
    if isinstance(config, MixtureConfig):
        return Mixture(in_width, out_width, config.parts, config.sharpness)
    if isinstance(config, BranchesConfig):
        return Branches(in_width, out_width, side=config.side, hidden=config.hidden, unit=config.unit)
    if isinstance(config, SlerpConfig):
        if in_width <= out_width:
            raise AlignmentError(f"{in_width} inputs leave nothing in front of an old query of {out_width}")
        return Slerp(in_width, out_width, config.share)
    if isinstance(config, PosteriorConfig):
        return Posterior(in_width, out_width, config.classes, config.scale, config.share)
    if isinstance(config, BasisConfig):
        if out_width <= config.extra:
            raise AlignmentError(f"{out_width} outputs leave nothing beside a first part of {config.extra}")
        return RotatedParts(in_width, out_width, config.extra, config.ratio)
    activation = nn.GELU() if config.activation == "gelu" else nn.ReLU()
    return nn.Sequential(nn.Linear(in_width, config.hidden), activation, nn.Linear(config.hidden, out_width))
