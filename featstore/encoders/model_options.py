"""The options of a model URI, and what a model's own files say of its preprocessing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError

from featstore.encoders.preprocess import Preprocess
from featstore.errors import BadInputError, NotFoundError, UnknownNameError, UsageError

__all__ = ["from_image_processor", "from_timm", "read_preprocess", "split_options"]

_PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
_MAX_JSON = 1 << 20


def split_options(text: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """`NAME?option=value&…` → the name and its options.

    Raises:
        UnknownNameError: an option that is not among `known`.
    """
    name, _, query = text.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in known:
            raise UnknownNameError("option of this kind of model", option, known, hint="options are NAME?option=value")
    return name, options


def read_preprocess(path: str | Path) -> Preprocess:
    """Preprocessing from a JSON file: the fields of `Preprocess`, or a `preprocessor_config.json` of transformers.

    Raises:
        NotFoundError: no such file.
        BadInputError: it describes no preprocessing.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise NotFoundError(
            f"{file} does not exist", hint="name a JSON file with the fields size, resize, mean, std, …"
        )
    try:
        if file.stat().st_size > _MAX_JSON:
            raise ValueError("it is too large")
        fields = json.loads(file.read_bytes())
        if not isinstance(fields, dict):
            raise TypeError("it is no JSON object")
        if "image_mean" in fields or "do_resize" in fields:
            return from_image_processor(fields)
        return Preprocess.model_validate(fields)
    except (ValueError, TypeError, ValidationError, RecursionError) as error:
        raise BadInputError(
            f"{file} describes no preprocessing: {error}", hint="see docs/reference/encoders.md"
        ) from error


def from_timm(config: Mapping[str, Any]) -> Preprocess:
    """What `timm.data.resolve_model_data_config` gives, as timm's transform for evaluation applies it.

    Raises:
        UsageError: the image is padded or not square.
    """
    channels, height, width = config["input_size"]
    crop = float(config.get("crop_pct") or 1.0)
    mode = config.get("crop_mode") or "center"
    if height != width or channels not in (1, 3) or mode not in ("center", "squash"):
        raise UsageError(
            f"this model wants input {channels}×{height}×{width}, crop mode '{mode}', which is not described by data yet",
            hint="give a square with ?preprocess=FILE.json if it can take one",
        )
    scaled = math.floor(height / crop)
    squash = mode == "squash" and scaled == height
    if mode == "squash" and not squash:
        raise UsageError("this model squashes images and cuts their edges off", hint="give ?preprocess=FILE.json")
    return Preprocess(
        channels=channels,
        size=height,
        resize="squash" if squash else "resize-crop",
        shorter_side=None if squash else scaled,
        interpolation=config.get("interpolation", "bilinear"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def from_image_processor(fields: Mapping[str, Any]) -> Preprocess:
    """What a `preprocessor_config.json` of transformers says.

    Raises:
        UsageError: images are not brought to one square.
    """
    size, crop = _sides(fields.get("size", 224)), _sides(fields.get("crop_size"))
    if not fields.get("do_resize", True):
        raise UsageError("this model takes images of any size", hint="give a square with ?preprocess=FILE.json")
    shortest = size.get("shortest_edge")
    centre = fields.get("do_center_crop", bool(crop))
    wanted: dict[str, Any]
    if shortest and fields.get("crop_pct") and "do_center_crop" not in fields:  # ConvNeXT's: crops below 384 only
        scaled = int(shortest / float(fields["crop_pct"]))
        wanted = {"size": shortest} | (
            {"resize": "resize-crop", "shorter_side": scaled} if shortest < 384 else {"resize": "squash"}
        )
    elif shortest and centre and crop.get("height") and crop.get("height") == crop.get("width"):
        wanted = {"size": crop["height"], "resize": "resize-crop", "shorter_side": shortest}
    elif size.get("height") and size.get("height") == size.get("width"):
        wanted = {"size": size["height"], "resize": "squash"}
    else:
        raise UsageError(
            f"size {fields.get('size')}, crop {fields.get('crop_size')} make no square",
            hint="give one with ?preprocess=FILE.json",
        )
    factor = 255 * float(fields.get("rescale_factor", 1 / 255)) if fields.get("do_rescale", True) else 255.0
    factor = 1.0 if math.isclose(factor, 1.0) else factor
    normalise = fields.get("do_normalize", True)
    mean = [float(value) for value in fields.get("image_mean") or [0, 0, 0]] if normalise else [0.0] * 3
    std = [float(value) for value in fields.get("image_std") or [1, 1, 1]] if normalise else [1.0] * 3
    return Preprocess(
        channels=3 if len(mean) == 3 else 1,
        interpolation=_PILLOW_FILTERS[int(fields.get("resample", 2))],  # type: ignore[arg-type]
        mean=tuple(value / factor for value in mean),
        std=tuple(value / factor for value in std),
        **wanted,
    )


def _sides(value: Any) -> dict[str, int]:
    if isinstance(value, int):
        return {"height": value, "width": value}
    return {key: int(side) for key, side in value.items() if side} if isinstance(value, dict) else {}
