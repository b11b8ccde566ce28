"""Networks exported by torch: `export:FILE.pt2`.

A `.pt2` file can hold pickled objects, which `torch.export.load` would load. Such a file is refused before torch sees it: only
plain tensors are let through. https://docs.pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from featstore.encoders.carried import KEY, carried_with, encoder_of
from featstore.encoders.encoder import Encoder
from featstore.encoders.model_options import split_options
from featstore.errors import BadInputError, NotFoundError, UntrustedError

__all__ = ["load_exported"]

_MAX_JSON = 256 << 20


def load_exported(text: str) -> Encoder:
    """The encoder behind `FILE.pt2?preprocess=FILE.json`.

    Raises:
        NotFoundError: no such file.
        BadInputError: it is no exported program.
        UntrustedError: it holds pickled objects.
        UsageError: nothing says how images become its input.
    """
    name, options = split_options(text, ("preprocess",))
    file = Path(name).expanduser()
    if not file.is_file():
        raise NotFoundError(f"{file} does not exist", hint="name a file that torch.export.save wrote")
    _refuse_pickles(file)
    carried: dict[str, Any] = {KEY: ""}
    try:
        program = torch.export.load(file, extra_files=carried)
        module = program.module()
    except Exception as error:  # a damaged archive fails anywhere
        raise BadInputError(
            f"{file} cannot be loaded by torch.export: {str(error).splitlines()[0]}",
            hint=f"export it again with this torch ({torch.__version__})",
        ) from error
    # an exported module has no modes: it was exported in one
    module.eval = lambda: module  # type: ignore[method-assign]
    module.training = False
    return encoder_of(
        module,
        carried_with(file, carried[KEY] or None, options.get("preprocess")),
        architecture="torch.export",
        engine="torch.export, cpu",
    )


def _refuse_pickles(file: Path) -> None:
    """Let plain tensors through only."""
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                name = info.filename
                if name.endswith("_config.json") and ("weights" in name or "constants" in name):
                    if info.file_size > _MAX_JSON:
                        raise BadInputError(f"{name} in {file} is too large")
                    entries = json.loads(archive.read(info)).get("config", {})
                    pickled = sorted(str(key) for key, entry in entries.items() if entry.get("use_pickle"))
                    if pickled:
                        raise _untrusted(file, ", ".join(pickled[:4]))
                elif "custom_obj" in name or "opaque_obj" in name:
                    raise _untrusted(file, name)
                elif "sample_inputs" in name and info.file_size:
                    torch.load(io.BytesIO(archive.read(info)), weights_only=True)
    except (zipfile.BadZipFile, ValueError, AttributeError, RecursionError) as error:
        raise BadInputError(f"{file} is no exported program: {error}", hint="torch.export.save writes them") from error
    except UnpicklingError as error:
        raise _untrusted(file, "its sample inputs") from error


def _untrusted(file: Path, what: str) -> UntrustedError:
    return UntrustedError(
        f"{file} holds pickled objects ({what}), which are never loaded",
        hint="export a network whose weights and constants are plain dense tensors",
    )
