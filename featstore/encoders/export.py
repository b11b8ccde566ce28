"""Encoders as ONNX or `torch.export` files that carry their preprocessing."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from featstore.encoders.carried import KEY, carried_by
from featstore.encoders.encoder import Encoder
from featstore.encoders.exported_programs import load_exported
from featstore.encoders.onnx_models import load_onnx
from featstore.errors import AlreadyExistsError, MissingExtraError, UsageError

__all__ = ["export_encoder"]

_TOLERANCE = 1e-4
_CHECKED = 3


def export_encoder(encoder: Encoder, path: str | Path) -> float:
    """Write an encoder as `.onnx` or `.pt2`, read it back, and compare.

    The export's space declares itself compatible with the encoder's.

    Args:
        encoder: To be exported.
        path: A new file; its ending chooses the format.

    Returns:
        Largest difference of a feature component from the original, relative to the feature's largest, on random images.

    Raises:
        UsageError: another ending, a network that cannot be exported, or an export with other features.
        AlreadyExistsError: the file exists.
        MissingExtraError: ONNX needs onnx and onnxscript.
    """
    file = Path(path).expanduser()
    if file.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"'{file.suffix}' is no format of networks", hint="write FILE.onnx or FILE.pt2")
    if file.exists():
        raise AlreadyExistsError(f"{file} exists already", hint="choose another name")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder:
        made = Path(folder) / file.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # exporters warn about their own affairs
            _write(encoder, made)
            again = (load_onnx if file.suffix == ".onnx" else load_exported)(str(made))
        difference = _difference(encoder, again)
        if not difference <= _TOLERANCE:
            raise UsageError(
                f"the export of {encoder.space.name} gives other features: relative difference {difference:.2g}",
                hint="look for operations that depend on the batch or on the mode",
            )
        made.rename(file)
    return difference


def _write(encoder: Encoder, file: Path) -> None:
    preprocess = encoder.preprocess
    images = torch.zeros(2, preprocess.channels, preprocess.size, preprocess.size)
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        with torch.no_grad():
            program = torch.export.export(encoder.module, (images,), dynamic_shapes=shapes)
    except Exception as error:  # foreign networks fail in any way
        raise UsageError(
            f"torch.export cannot export {encoder.space.name}: {str(error).splitlines()[0]}",
            hint="its forward must be free of data-dependent Python",
        ) from error
    if file.suffix == ".pt2":
        torch.export.save(program, file, extra_files={KEY: carried_by(encoder)})
        return
    try:
        import onnx
        import onnxscript  # noqa: F401 - the exporter of torch needs it
    except ImportError as error:
        raise MissingExtraError("onnxscript", "onnx", "writing ONNX") from error
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    if exported is None:
        raise UsageError(f"{encoder.space.name} cannot be written as ONNX", hint="try FILE.pt2")
    proto = exported.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, carried_by(encoder)
    onnx.save_model(proto, str(file))


def _difference(one: Encoder, other: Encoder) -> float:
    rng = np.random.default_rng(0)
    shape = (_CHECKED, one.preprocess.channels, one.preprocess.size, one.preprocess.size)
    images = rng.normal(size=shape).astype(np.float32)
    left, right = one.encode(images).astype(np.float64), other.encode(images).astype(np.float64)
    if left.shape != right.shape:
        return float("inf")
    return float((np.abs(left - right).max(axis=1) / np.maximum(np.abs(left).max(axis=1), 1e-30)).max())
