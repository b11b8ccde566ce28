"""Networks that are built from a name and a config alone, so that a run folder never has to point to code.

Dimension legend: B batch, C channels, H and W pixels, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from featstore.encoders.efficientnet_lite import LiteConfig, build_lite
from featstore.encoders.timm_models import TimmConfig, build_timm
from featstore.encoders.transformers_models import TransformersConfig, build_transformers
from featstore.errors import UnknownNameError, UsageError
from featstore.rotated_parts import RotatedParts

__all__ = [
    "ConvNet",
    "ConvNetConfig",
    "RotatedConfig",
    "RotatedNetwork",
    "architecture_names",
    "build_architecture",
    "check_config",
]


class ConvNetConfig(BaseModel):
    """Config of `convnet`.

    Attributes:
        in_channels: 1 for grey, 3 for RGB.
        widths: Channels of each stage; every stage halves height and width, so the image needs 2^len(widths) pixels.
        embedding: Width of the output (D).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: Literal[1, 3] = 3
    widths: tuple[int, ...] = Field(default=(32, 64, 128), min_length=1, max_length=8)
    embedding: int = Field(default=128, ge=1, le=8192)

    def model_post_init(self, _: Any) -> None:
        """Refuse widths that no sensible network has, before anything is allocated."""
        if not all(1 <= width <= 2048 for width in self.widths):
            raise ValueError("each of widths must lie in 1…2048")


class ConvNet(nn.Module):
    """A small network for small images, 28 × 28 digits up to 64 × 64.

    Stages of conv 3×3 – batch norm – max pool 2 – ReLU, then the mean over what is left of height and width, and a linear
    layer.

    Args:
        config: Widths of its layers.

    Shape:
        [B, C, H, W] → [B, D], not normalised.
    """

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before: int = config.in_channels
        for width in config.widths:
            # batch norm has its own shift, so the convolution needs none
            stages += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.MaxPool2d(2),
                nn.ReLU(inplace=True),  # after pooling it has a quarter of the work and gives the same
            ]
            before = width
        self.stages = nn.Sequential(*stages)
        self.project = nn.Linear(before, config.embedding)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [B, C, H, W] as [B, D]."""
        maps: Tensor = self.stages(images)
        out: Tensor = self.project(maps.mean(dim=(2, 3)))
        return out


def _build_convnet(config: Mapping[str, Any]) -> nn.Module:
    return ConvNet(ConvNetConfig.model_validate(config))


class RotatedConfig(BaseModel):
    """Config of `rotated`.

    Attributes:
        architecture: Name of the network's own architecture.
        config: Config of that.
        features: Width of the network's own output.
        embedding: Width of the output (D).
        extra: Components of the first part.
        ratio: C, the norm of the second part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    config: dict[str, Any]
    features: int = Field(ge=1)
    embedding: int = Field(ge=1, le=8192)
    extra: int = Field(ge=1)
    ratio: float = Field(gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.embedding <= self.extra:
            raise ValueError(f"width {self.embedding} leaves nothing beside a first part of {self.extra}")
        return self.model_copy(update={"config": check_config(self.architecture, self.config)})


class RotatedNetwork(nn.Module):
    """A network, and the basis transformation of BT² on its output.

    Args:
        network: [B, C, H, W] → [B, `features`].
        config: Widths of both.

    Shape:
        [B, C, H, W] → [B, D], of norm √(1 + C²).
    """

    def __init__(self, network: nn.Module, config: RotatedConfig) -> None:
        super().__init__()
        self.network = network
        self.body = RotatedParts(config.features, config.embedding, config.extra, config.ratio)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [B, C, H, W] as [B, D]."""
        out: Tensor = self.body(self.network(images))
        return out


def _build_rotated(config: Mapping[str, Any]) -> nn.Module:
    described = RotatedConfig.model_validate(config)
    return RotatedNetwork(build_architecture(described.architecture, described.config), described)


_BUILDERS: dict[str, tuple[type[BaseModel], Callable[[Mapping[str, Any]], nn.Module]]] = {
    "convnet": (ConvNetConfig, _build_convnet),
    "efficientnet_lite": (LiteConfig, build_lite),
    "rotated": (RotatedConfig, _build_rotated),
    "timm": (TimmConfig, build_timm),
    "transformers": (TransformersConfig, build_transformers),
}


def architecture_names() -> list[str]:
    """Names that `build_architecture` knows, sorted."""
    return sorted(_BUILDERS)


def check_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its defaults written out, as plain JSON; so equal networks have equal configs.

    Raises:
        UnknownNameError: no architecture has that name.
        UsageError: the config does not fit it.
    """
    if name not in _BUILDERS:
        raise UnknownNameError("architecture", name, _BUILDERS)
    try:
        return _BUILDERS[name][0].model_validate(config).model_dump(mode="json")
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
        raise UsageError(f"architecture {name} cannot have this config: {problems}") from error


def build_architecture(name: str, config: Mapping[str, Any], *, seed: int | None = None) -> nn.Module:
    """A network with fresh weights.

    Args:
        name: One of `architecture_names()`.
        config: Its config.
        seed: Seed of the weights; None draws from torch's global generator.

    Raises:
        UnknownNameError: no architecture has that name.
        UsageError: the config does not fit it.
        MissingExtraError: it needs a package that is not installed.
    """
    checked = check_config(name, config)
    if seed is None:
        return _BUILDERS[name][1](checked)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _BUILDERS[name][1](checked)
