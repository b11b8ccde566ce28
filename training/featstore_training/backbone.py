"""The network that full mode trains.

B batch, C channels, S height and width, D feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from featstore.encoders import Encoder, architecture_names, build_architecture, load_encoder
from featstore.encoders.architectures import RotatedConfig, RotatedNetwork, check_config
from featstore.errors import UsageError
from featstore.maps import BasisConfig
from featstore_training.model_config import ModelConfig
from featstore_training.seeds import global_seed

__all__ = ["Backbone", "initial_encoder", "rotated"]


class Backbone(nn.Module):
    """A network whose features are scaled to length 1 if its encoder does that.

    Args:
        network: Float32 [B, C, S, S] → floating point [B, D].
        normalise: Whether the encoder normalises.
    """

    def __init__(self, network: nn.Module, *, normalise: bool) -> None:
        super().__init__()
        self.network = network.requires_grad_(requires_grad=True)
        self.normalise = normalise

    @property
    def body(self) -> nn.Module | None:
        """What was put on the network's own features, as in a map; None for nothing."""
        return self.network.body if isinstance(self.network, RotatedNetwork) else None

    def forward(self, pixels: Tensor) -> Tensor:
        """Float32 [B, C, S, S] → float32 [B, D]."""
        # convolutions follow the layout of their input, and CPUs take half the time for this one. Only copying into it is
        # sure to change the layout: images with one channel count as having it already
        laid_out = torch.empty_like(pixels, memory_format=torch.channels_last).copy_(pixels)
        out: Tensor = self.network(laid_out).float()
        return normalize(out, dim=1) if self.normalise else out


def initial_encoder(config: ModelConfig, seed: int) -> Encoder:
    """The encoder before training; equal config and seed give equal weights.

    Raises:
        UsageError: settings that cannot mean anything, or a network that no run folder could hold.
        Whatever `load_encoder` raises.
    """
    if config.name not in architecture_names():
        return _loaded(config, seed)
    if config.preprocess is None:
        raise UsageError(
            f"architecture {config.name} does not say how images become its input",
            hint="--set model.preprocess.size=32 (and .channels, .mean, .std, .resize)",
        )
    described = check_config(config.name, config.config)
    with global_seed(seed, "backbone"):
        network = build_architecture(config.name, described)
    preprocess = config.preprocess
    try:
        return Encoder(network, preprocess, architecture=config.name, config=described, normalise=config.normalise)
    except RuntimeError as error:
        shape = f"{preprocess.channels}×{preprocess.size}×{preprocess.size}"
        raise UsageError(
            f"architecture {config.name} cannot take images of {shape}: {error}",
            hint="make --set model.preprocess.… and model.config.… fit each other",
        ) from error


def rotated(start: Encoder, basis: BasisConfig, width: int, seed: int) -> Encoder:
    """An encoder with fresh rotated parts on its features, of another width.

    Raises:
        UsageError: the width leaves nothing beside the first part.
    """
    described = {
        "architecture": start.architecture,
        "config": start.config,
        "features": start.width,
        "embedding": width,
        "extra": basis.extra,
        "ratio": basis.ratio,
    }
    config = check_config("rotated", described)
    with global_seed(seed, "map"):
        network = RotatedNetwork(start.module, RotatedConfig.model_validate(config))
    return Encoder(network, start.preprocess, architecture="rotated", config=config, normalise=basis.normalise)


def _loaded(config: ModelConfig, seed: int) -> Encoder:
    given = config.model_fields_set - {"name"}
    if given:
        raise UsageError(
            f"the model {config.name} brings its own {', '.join(sorted(given))}",
            hint=f"leave them out, or name an architecture: {', '.join(architecture_names())}",
        )
    with global_seed(seed, "backbone"):
        encoder = load_encoder(config.name)
    if encoder.architecture not in architecture_names():
        raise UsageError(
            f"a network of architecture '{encoder.architecture}' could be trained but not be built again from the run "
            "folder, which never points to code",
            hint=f"use one of the registered architectures: {', '.join(architecture_names())}",
        )
    return encoder
