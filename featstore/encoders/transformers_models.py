"""Vision models of transformers: `hf:FOLDER` for a saved model, `hf:OWNER/NAME` for one of the hub.

https://huggingface.co/docs/transformers; needs the extra `hf`. Weights come from
safetensors only, and no code of a repository runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from featstore.encoders._torchvision import allow_torchvision
from featstore.encoders.encoder import Encoder
from featstore.encoders.model_options import read_preprocess, split_options
from featstore.errors import BadInputError, FeatstoreError, MissingExtraError, NotFoundError, UsageError

__all__ = ["Pooled", "TransformersConfig", "build_transformers", "load_transformers"]

Pooling = Literal["cls", "mean", "pooler", "image"]
_POOLINGS = ("cls", "mean", "pooler", "image")
# they say where a config came from or how it is computed, not what the network is
_VOLATILE = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_attn_implementation_autoset",
    "architectures",
)
_PROCESSOR = "preprocessor_config.json"


class TransformersConfig(BaseModel):
    """Config of architecture `transformers`.

    Attributes:
        config: The model's config, `model_type` included.
        pooling: How a feature comes from the model's output: `cls` is the first token, `mean` the mean over tokens (or
            places), `pooler` the model's own pooled output, `image` the projected image embedding of CLIP-like models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    pooling: Pooling


class Pooled(nn.Module):
    """A vision model and the way its output becomes one feature.

    Args:
        network: A model of transformers.
        pooling: See `TransformersConfig`.

    Shape:
        [B, 3, H, W] → [B, D].
    """

    def __init__(self, network: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        pooler = getattr(network, "pooler", None)
        if pooling in ("cls", "mean") and isinstance(pooler, nn.Module) and next(pooler.parameters(), None) is not None:
            network.pooler = None  # type: ignore[assignment]  # not used, and without weights in many files
        self.network = network
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [B, 3, H, W] as [B, D]."""
        if self.pooling == "image":
            given: Any = self.network.get_image_features(pixel_values=images)  # type: ignore[operator]
            return given if isinstance(given, Tensor) else given.pooler_output  # newer versions wrap it
        output: Any = self.network(pixel_values=images)
        if self.pooling == "pooler":
            pooled: Tensor = output.pooler_output
            return pooled.flatten(1)
        hidden: Tensor = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self.pooling == "cls" else hidden.mean(dim=1)


def build_transformers(config: Mapping[str, Any]) -> nn.Module:
    """The network with fresh weights.

    Raises:
        MissingExtraError: transformers is not installed.
        UsageError: it knows no such kind of model.
    """
    checked = TransformersConfig.model_validate(config)
    transformers = _transformers()
    fields = dict(checked.config)
    try:
        parsed = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        network = transformers.AutoModel.from_config(parsed, trust_remote_code=False)
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"transformers cannot build this model: {error}") from error
    return Pooled(network, checked.pooling)


def load_transformers(text: str) -> Encoder:
    """The encoder behind `NAME?pooling=cls|mean|pooler|image&preprocess=FILE`.

    Raises:
        MissingExtraError: transformers is not installed.
        NotFoundError, FeatstoreError: the model is not there, or cannot be downloaded.
        UsageError: a pooling that it does not have.
    """
    name, options = split_options(text, ("pooling", "preprocess"))
    given = options.get("pooling")
    if given is not None and given not in _POOLINGS:
        raise UsageError(f"there is no pooling '{given}'", hint=f"one of {', '.join(_POOLINGS)}")
    network, fresh = _loaded(name)
    pooling = _pooling(network, fresh, given)
    config = {key: value for key, value in network.config.to_diff_dict().items() if key not in _VOLATILE}
    config["model_type"] = network.config.model_type
    preprocess = read_preprocess(options.get("preprocess") or _file_of(name, _PROCESSOR))
    return Encoder(
        Pooled(network, pooling),
        preprocess,
        architecture="transformers",
        config={"config": json.loads(json.dumps(config, default=str)), "pooling": pooling},
        name=name.rstrip("/").rpartition("/")[2],
    )


def _loaded(name: str) -> tuple[Any, list[str]]:
    """The model, and the names of weights that its files lack."""
    transformers = _transformers()
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # that a head is not used is as it should be
    try:
        with torch.random.fork_rng(devices=[]):
            network, loading = transformers.AutoModel.from_pretrained(
                _local(name),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise _unavailable(name, error) from error
    finally:
        transformers.logging.set_verbosity(before)
    return network, sorted(loading["missing_keys"])


def _pooling(network: Any, fresh: list[str], given: str | None) -> Pooling:
    """The pooling asked for, or the model's own, if its weights are those of the file."""
    pooler_is_fresh = any("pooler" in key for key in fresh)
    others = [key for key in fresh if "pooler" not in key]
    if others:
        raise BadInputError(
            f"the model's files lack weights: {', '.join(others[:4])}", hint="take the files of a trained model"
        )
    if given is None:
        if hasattr(network, "get_image_features"):
            return "image"
        if getattr(network, "pooler", None) is not None and not pooler_is_fresh:
            return "pooler"
        return "cls"
    if given == "pooler" and pooler_is_fresh:
        raise UsageError("the model's files have no weights of a pooler", hint="take pooling=cls or pooling=mean")
    pooling: Pooling = given  # type: ignore[assignment]
    return pooling


def _file_of(name: str, file: str) -> Path:
    local = Path(name).expanduser()
    if local.is_dir():
        return local / file
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file))
    except (OSError, ValueError) as error:
        raise _unavailable(name, error) from error


def _local(name: str) -> str:
    path = Path(name).expanduser()
    return str(path) if path.is_dir() else name


def _unavailable(name: str, error: Exception) -> FeatstoreError:
    said = str(error).strip().splitlines()[0]
    if name.startswith((".", "/", "~")) or Path(name).expanduser().exists():
        return NotFoundError(
            f"{name} is no saved model: {said}",
            hint="it needs config.json, model.safetensors and preprocessor_config.json",
        )
    return FeatstoreError(
        f"the model {name} cannot be had: {said}",
        hint="where the hub is out of reach, copy the model's folder here and give hf:FOLDER",
    )


def _transformers() -> Any:
    allow_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", "models of transformers") from error
    return transformers
