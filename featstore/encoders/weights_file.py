"""Weights from a local file: tensors only, nothing in it is executed."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from featstore.errors import BadInputError, NotFoundError

__all__ = ["load_weights"]


def load_weights(module: nn.Module, path: str, *, head: tuple[str, ...]) -> None:
    """Fill a network from a `.safetensors` file or a checkpoint of torch.

    Args:
        module: The network, without a classifier.
        path: The file.
        head: Beginnings of the names that a classifier has in the file; these may be left over.

    Raises:
        NotFoundError: no such file.
        BadInputError: it holds more than tensors, or those of another network.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise NotFoundError(f"{file} does not exist", hint="name a .safetensors file or a checkpoint of torch")
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (
        SafetensorError,
        RuntimeError,
        OSError,
        ValueError,
        EOFError,
        UnpicklingError,
    ) as error:
        raise BadInputError(
            f"{file} cannot be loaded as plain tensors: {str(error).splitlines()[0]}",
            hint="save the state_dict as .safetensors",
        ) from error
    for wrapper in ("state_dict", "model", "state_dict_ema"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    tensors = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    odd = sorted(key for key in tensors.keys() - wanted.keys() if not key.startswith(head))
    other = sorted(key for key in wanted.keys() & tensors.keys() if wanted[key].shape != tensors[key].shape)
    if missing or odd or other:
        raise BadInputError(
            f"{file} holds the weights of another network: "
            + "; ".join(
                f"{what} {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
                for what, names in (("it lacks", missing), ("it also has", odd), ("of another shape are", other))
                if names
            ),
            hint="check the model's name",
        )
    module.load_state_dict({key: tensors[key] for key in wanted})
