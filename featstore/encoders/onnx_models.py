"""Networks in ONNX: `onnx:FILE`, run by onnxruntime in one thread. An ONNX file is data; nothing in it is executed as code.

https://onnxruntime.ai; needs the extra `onnx`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor, nn

from featstore.encoders.carried import KEY, carried_with, encoder_of
from featstore.encoders.encoder import Encoder
from featstore.encoders.model_options import split_options
from featstore.errors import BadInputError, MissingExtraError, NotFoundError, UnknownNameError, UsageError

__all__ = ["OnnxModule", "load_onnx"]

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxModule(nn.Module):
    """A session of onnxruntime as a module.

    Args:
        session: With one input of images.
        output: Name of the output that is the feature.

    Shape:
        [B, C, H, W] → [B, D]; in pieces where the file fixes the batch.
    """

    def __init__(self, session: Any, output: str) -> None:
        super().__init__()
        self.session = session
        self.output = output
        image = session.get_inputs()[0]
        self.input = image.name
        self.kind = _TYPES[image.type]
        batch = image.shape[0] if image.shape else None
        self.batch = batch if isinstance(batch, int) and batch > 0 else None

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [B, C, H, W] as [B, D]."""
        array = images.numpy().astype(self.kind, copy=False)
        if self.batch is None:
            return torch.from_numpy(self._run(array))
        parts = []
        for start in range(0, len(array), self.batch):
            piece = array[start : start + self.batch]
            full = np.concatenate([piece, np.zeros((self.batch - len(piece), *piece.shape[1:]), piece.dtype)])
            parts.append(self._run(full)[: len(piece)])
        return torch.from_numpy(np.concatenate(parts))

    def _run(self, array: Any) -> Any:
        (found,) = self.session.run([self.output], {self.input: array})
        return found


def load_onnx(text: str) -> Encoder:
    """The encoder behind `FILE?output=NAME&preprocess=FILE.json`.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        NotFoundError: no such file.
        BadInputError: it is no network that takes images.
        UsageError: several outputs may be the feature, or nothing says how images become its input.
    """
    name, options = split_options(text, ("output", "preprocess"))
    file = Path(name).expanduser()
    if not file.is_file():
        raise NotFoundError(f"{file} does not exist", hint="name an .onnx file")
    session, version = _session(file)
    output = _output(session, options.get("output"), file)
    carried = carried_with(file, session.get_modelmeta().custom_metadata_map.get(KEY), options.get("preprocess"))
    return encoder_of(
        OnnxModule(session, output),
        carried,
        architecture="onnx",
        config={"output": output},
        weights=_digest(file),
        engine=f"onnxruntime {version}, cpu",
    )


def _session(file: Path) -> tuple[Any, str]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "networks in ONNX") from error
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise BadInputError(
            f"{file} cannot be loaded by onnxruntime: {str(error).splitlines()[0]}", hint="export it again"
        ) from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _TYPES or len(inputs[0].shape) != 4:
        described = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise BadInputError(
            f"{file} takes {described}, not one tensor of images [B, C, H, W]", hint="export the image part"
        )
    return session, ort.__version__


def _output(session: Any, given: str | None, file: Path) -> str:
    outputs: dict[str, Any] = {one.name: one.shape for one in session.get_outputs()}
    if given is not None:
        if given not in outputs:
            raise UnknownNameError(f"output of {file}", given, outputs)
        return given
    matrices = [name for name, shape in outputs.items() if len(shape) == 2]
    if len(matrices) != 1:
        described = ", ".join(f"{name} {shape}" for name, shape in outputs.items())
        raise UsageError(
            f"which output of {file} is the feature? {described}", hint=f"name it: {file.name}?output=NAME"
        )
    return matrices[0]


def _digest(file: Path) -> str:
    """Of the file, and of those beside it that hold its large tensors (`NAME.onnx.data`, as exporters write them)."""
    digest = blake3()
    for part in [file, *sorted(file.parent.glob(f"{file.name}[._]data"))]:
        digest.update_mmap(part)
    return str(digest.hexdigest())
