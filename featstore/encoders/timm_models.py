"""Models of timm: `timm:NAME`, with weights from timm's hub or from a local file (`timm:NAME?weights=FILE`).

https://github.com/huggingface/pytorch-image-models; needs the extra `timm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from featstore.encoders._torchvision import allow_torchvision
from featstore.encoders.encoder import Encoder
from featstore.encoders.model_options import from_timm, read_preprocess, split_options
from featstore.encoders.weights_file import load_weights
from featstore.errors import FeatstoreError, MissingExtraError, UnknownNameError

__all__ = ["TimmConfig", "build_timm", "load_timm"]

_HEADS = ("fc.", "classifier.", "head.", "head_dist.", "last_linear.")


class TimmConfig(BaseModel):
    """Config of architecture `timm`: which model, without its classifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str


def build_timm(config: Mapping[str, Any]) -> nn.Module:
    """The network with fresh weights, giving pooled features [B, D].

    Raises:
        MissingExtraError: timm is not installed.
        UnknownNameError: it knows no such model.
    """
    return _create(TimmConfig.model_validate(config).model, pretrained=False)


def load_timm(text: str) -> Encoder:
    """The encoder behind `NAME?weights=FILE&preprocess=FILE`; preprocessing is that of the model's own config.

    Raises:
        MissingExtraError, UnknownNameError: timm, or the model, is not there.
        FeatstoreError: the weights cannot be downloaded.
    """
    name, options = split_options(text, ("weights", "preprocess"))
    if "weights" in options:
        module = _create(name, pretrained=False)
        load_weights(module, options["weights"], head=_HEADS)
    else:
        module = _create(name, pretrained=True)
    if "preprocess" in options:
        preprocess = read_preprocess(options["preprocess"])
    else:
        preprocess = from_timm(_timm().data.resolve_model_data_config(module))
    return Encoder(module, preprocess, architecture="timm", config={"model": name}, name=name)


def _create(name: str, *, pretrained: bool) -> nn.Module:
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        raise UnknownNameError("model of timm", name, timm.list_models())
    try:
        module: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        raise FeatstoreError(
            f"the weights of timm:{name} cannot be had: {str(error).splitlines()[0]}",
            hint=f"download them elsewhere and give timm:{name}?weights=FILE.safetensors, or check the network",
        ) from error
    return module


def _timm() -> Any:
    allow_torchvision()
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise MissingExtraError("timm", "timm", "models of timm") from error
    return timm
