"""EfficientNet-Lite from the optional package `efficientnet_lite_pytorch`, cut off at its pooled features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from featstore.errors import MissingExtraError

__all__ = ["LiteConfig", "PooledLite", "build_lite"]


class LiteConfig(BaseModel):
    """Config of `efficientnet_lite`: which of its sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Literal[0, 1] = 0


class PooledLite(nn.Module):
    """The convolutional part of EfficientNet-Lite and the mean over height and width.

    Args:
        network: The package's network; its classifier is dropped.

    Shape:
        [B, 3, H, W] → [B, 1280], not normalised, not negative.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        network._fc = nn.Identity()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [B, 3, H, W] as [B, 1280]."""
        maps: Tensor = self.network.extract_features(images)
        return maps.mean(dim=(2, 3))


def build_lite(config: Mapping[str, Any]) -> nn.Module:
    """The network with fresh weights.

    Raises:
        MissingExtraError: the package is not installed.
    """
    variant = LiteConfig.model_validate(config).variant
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtraError("efficientnet-lite-pytorch", "lite", f"EfficientNet-Lite{variant}") from error
    return PooledLite(EfficientNet.from_name(f"efficientnet-lite{variant}"))


def load_classifier_weights(model: PooledLite, path: str) -> None:
    """Fill the network from a checkpoint that has a classifier too; tensors only, nothing in the file is executed."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model.network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("_fc.")})
