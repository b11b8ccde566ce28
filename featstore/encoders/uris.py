"""Model URIs to encoders, and encoders to run folders.

    python:pkg.module:factory    a function without arguments that returns an Encoder
    run:FOLDER, or just FOLDER   a run folder, which is data: weights, and the name of a registered architecture
    timm:NAME?weights=FILE       a model of timm; without weights=, those of the hub
    hf:FOLDER or hf:OWNER/NAME   a vision model of transformers, saved here or on the hub
    onnx:FILE                    a network in ONNX, run by onnxruntime
    export:FILE.pt2              a network exported by torch.export

A `python:` URI executes code, so it is only followed when somebody gives it on the command line or in a call; one that is
recorded in a store or a run folder never reaches this module.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from featstore.encoders.architectures import architecture_names, build_architecture
from featstore.encoders.encoder import Encoder
from featstore.encoders.preprocess import Preprocess
from featstore.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    NotFoundError,
    UnknownNameError,
    UsageError,
)
from featstore.runs import CARD, RunCard, read_card, write_card
from featstore.spaces import require_same
from featstore.whole_files import write_whole

__all__ = ["ENCODER_FILE", "MODEL_KINDS", "ModelKind", "load_encoder", "save_encoder"]

ENCODER_FILE = "encoder.safetensors"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)


def load_encoder(uri: str) -> Encoder:
    """The encoder behind a model URI.

    Raises:
        UnknownNameError: nobody knows the scheme.
        NotFoundError: there is no such module, factory or run folder.
        UsageError: it is there but is no encoder.
        CorruptStoreError: the run folder is damaged.
    """
    match = _SCHEME.fullmatch(uri)
    if match is None:
        return _from_run(uri)
    scheme, rest = match.groups()
    if scheme not in MODEL_KINDS:
        raise UnknownNameError("kind of model", scheme, MODEL_KINDS, hint="a run folder needs no prefix")
    return MODEL_KINDS[scheme].load(rest)


def save_encoder(
    folder: Path, encoder: Encoder, *, training: Mapping[str, Any] | None = None, extra_files: Sequence[str] = ()
) -> RunCard:
    """Write an encoder as a run folder; `load_encoder(folder)` gives it back.

    Args:
        folder: Made if it is not there; other files in it stay.
        encoder: Of a registered architecture.
        training: Config, inputs, seed and metrics, as plain JSON.
        extra_files: Names of further files of the folder that belong to the run.

    Raises:
        AlreadyExistsError: the folder holds a finished run.
        UnknownNameError: the architecture is not registered.
    """
    if encoder.architecture not in architecture_names():
        raise UnknownNameError("architecture", encoder.architecture, architecture_names())
    if (folder / CARD).exists():
        raise AlreadyExistsError(f"{folder} holds a finished run", hint="choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(
        folder / ENCODER_FILE, save({name: value.contiguous() for name, value in encoder.module.state_dict().items()})
    )
    card = RunCard(
        kind="encoder",
        architecture={"name": encoder.architecture, "config": encoder.config},
        space=encoder.space,
        files=dict.fromkeys((ENCODER_FILE, *extra_files), ""),
        training=dict(training or {}),
    )
    return write_card(folder, card)


def _from_run(path: str) -> Encoder:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise NotFoundError(
            f"there is no run folder {folder}",
            hint="give the folder of a finished run, run:FOLDER, or python:pkg.module:factory; "
            f"architectures to train anew are {', '.join(architecture_names())}",
        )
    card = read_card(folder)
    if card.kind != "encoder":
        raise UsageError(f"{folder} holds a {card.kind}, not an encoder", hint="`featstore apply` uses maps")
    if ENCODER_FILE not in card.files:
        raise CorruptStoreError(f"{folder / CARD} lists no {ENCODER_FILE}", hint="train the run again")
    identity = card.space.identity
    try:
        name, config = str(card.architecture["name"]), dict(card.architecture["config"])
        preprocess = Preprocess.model_validate(identity["preprocess"])
        normalise = bool(identity["normalise"])
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise CorruptStoreError(
            f"{folder / CARD} does not describe an encoder: {error}", hint="train the run again"
        ) from error
    module = build_architecture(name, config)
    try:
        module.load_state_dict(load_file(folder / ENCODER_FILE))
    except (RuntimeError, SafetensorError) as error:
        raise CorruptStoreError(
            f"{folder / ENCODER_FILE} does not fit architecture {name}: {error}", hint="train the run again"
        ) from error
    encoder = Encoder(
        module,
        preprocess,
        architecture=name,
        config=config,
        name=card.space.name,
        normalise=normalise,
        compatible_with=card.space.compatible_with,
    )
    require_same(
        card.space,
        encoder.space,
        what=f"run folder {folder}",
        hint="use the featstore that made the run, or train it again with this one",
    )
    return encoder


def _from_python(target: str) -> Encoder:
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"python:{target} names no factory", hint="write python:pkg.module:factory")
    here = str(Path.cwd())
    if here not in sys.path:  # a factory beside the data is the common case, and console scripts do not look there
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise NotFoundError(
            f"python:{target}: {error}", hint=f"run from the folder that holds {module_name.split('.')[0]}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise NotFoundError(f"{module.__file__} has no function '{attribute}'", hint="check the name after the colon")
    encoder = factory()
    if not isinstance(encoder, Encoder):
        raise UsageError(
            f"python:{target} returned {type(encoder).__name__}", hint="return a featstore.encoders.Encoder"
        )
    return encoder


def _from_timm(text: str) -> Encoder:
    from featstore.encoders.timm_models import load_timm

    return load_timm(text)


def _from_transformers(text: str) -> Encoder:
    from featstore.encoders.transformers_models import load_transformers

    return load_transformers(text)


def _from_onnx(text: str) -> Encoder:
    from featstore.encoders.onnx_models import load_onnx

    return load_onnx(text)


def _from_export(text: str) -> Encoder:
    from featstore.encoders.exported_programs import load_exported

    return load_exported(text)


class ModelKind(NamedTuple):
    """A kind of model.

    Attributes:
        example: How it is written.
        what: One line on what it is.
        load: From what follows the scheme to the encoder.
        package: What it needs.
        extra: The extra of featstore that brings it.
    """

    example: str
    what: str
    load: Callable[[str], Encoder]
    package: str | None = None
    extra: str | None = None


MODEL_KINDS = {
    "run": ModelKind("run:FOLDER", "a run folder of featstore", _from_run),
    "python": ModelKind("python:MODULE:FACTORY", "a function that returns an Encoder", _from_python),
    "timm": ModelKind(
        "timm:NAME?weights=FILE", "a model of timm; from its hub without weights", _from_timm, "timm", "timm"
    ),
    "hf": ModelKind(
        "hf:FOLDER",
        "a vision model of transformers; OWNER/NAME is on the hub",
        _from_transformers,
        "transformers",
        "hf",
    ),
    "onnx": ModelKind("onnx:FILE", "a network in ONNX", _from_onnx, "onnxruntime", "onnx"),
    "export": ModelKind("export:FILE.pt2", "what torch.export saved", _from_export),
}
