"""Everything a run needs to go on as if it had never stopped, in one safetensors file.

Tensors carry the map or backbone, the head, the objective, the optimiser and the best weights so far; the file's header
carries the rest as JSON. The file is replaced atomically, so there is always one whole checkpoint. Whatever is drawn at random
follows from the seed and the number of the epoch, so no generator has to be kept.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.amp import GradScaler

from featstore.errors import CorruptStoreError
from featstore.whole_files import write_whole
from featstore_training.average import Average
from featstore_training.bridges import Bridge
from featstore_training.heads import Head
from featstore_training.objectives import Objective
from featstore_training.processes import Processes

__all__ = ["RESUME", "TrainState", "read_header", "restore", "save"]

RESUME = "resume.safetensors"
FORMAT = 2
KEPT = ("module", "bridge", "head")  # what a run folder is made of; the objective has done its work by then


@dataclass(slots=True)
class TrainState:
    """A run between two epochs.

    Attributes:
        module, bridge, head, objective, optimizer: What is trained, by what.
        average: Follows the weights that will be kept; None keeps them as they are.
        scaler: Scales the loss for half precision, and remembers by how much; does nothing unless enabled.
        processes: Who trains together.
        request: Config and inputs as JSON; a checkpoint of another request is never continued.
        epoch: Epochs finished.
        best_epoch: The epoch whose weights are kept, 0 before the first.
        best_score: Its validation as JSON.
        best: Its weights, `module.…`, `bridge.…` and `head.…`.
        notes: What the user was told.
        seconds: Time spent training so far.
    """

    module: nn.Module
    bridge: Bridge
    head: Head
    objective: Objective
    optimizer: torch.optim.Optimizer
    request: dict[str, Any]
    average: Average | None = None
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    processes: Processes = field(default_factory=Processes)
    epoch: int = 0
    best_epoch: int = 0
    best_score: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def keep_best(self, score: dict[str, Any]) -> None:
        """Remember the present weights as those of the present epoch."""
        self.best_epoch, self.best_score = self.epoch, score
        self.best = {
            f"{part}.{key}": tensor.clone()
            for part, module in self.kept().items()
            for key, tensor in module.state_dict().items()
        }

    def kept(self) -> dict[str, nn.Module]:
        """What a run folder is made of, by name."""
        return {part: getattr(self, part) for part in KEPT}

    def as_kept(self) -> AbstractContextManager[None]:
        """While it lasts, map or backbone, bridge and head have the weights that are validated and kept."""
        return self.average.in_place() if self.average else nullcontext()

    def load_best(self) -> None:
        """Put the best weights into map or backbone, bridge and head."""
        for part, module in self.kept().items():
            module.load_state_dict(_under(f"{part}.", self.best))


def save(folder: Path, state: TrainState) -> None:
    """Replace the checkpoint in `folder`."""
    tensors = {f"best.{key}": tensor for key, tensor in state.best.items()}
    for part in (*KEPT, "objective"):
        for key, tensor in getattr(state, part).state_dict().items():
            tensors[f"{part}.{key}"] = tensor.contiguous()
    if state.average:
        tensors |= {f"average.{key}": tensor.contiguous() for key, tensor in state.average.weights.items()}
    for number, slots in state.optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{key}"] = value.contiguous()
    header = {
        "format": FORMAT,
        "request": state.request,
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best_score": state.best_score,
        "notes": state.notes,
        "seconds": state.seconds,
        "scaler": state.scaler.state_dict(),
    }
    write_whole(folder / RESUME, serialise(tensors, metadata={"state": json.dumps(header)}))


def read_header(folder: Path) -> dict[str, Any] | None:
    """What the checkpoint in `folder` says about itself, None if there is none.

    Raises:
        CorruptStoreError: it cannot be read.
    """
    path = folder / RESUME
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as stream:
            header: dict[str, Any] = json.loads(stream.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    if header.get("format") != FORMAT:
        raise _damaged(path, ValueError(f"its format is {header.get('format')}, this featstore reads {FORMAT}"))
    return header


def restore(folder: Path, state: TrainState) -> None:
    """Fill a freshly built `state` from the checkpoint in `folder`.

    Raises:
        CorruptStoreError: there is none, or it does not fit what was built.
    """
    path = folder / RESUME
    header = read_header(folder)
    if header is None:
        raise CorruptStoreError(f"{path} is gone", hint="train into another folder")
    try:
        with safe_open(path, "pt") as stream:
            tensors = {key: stream.get_tensor(key) for key in list(stream.keys())}
        for part in (*KEPT, "objective"):
            getattr(state, part).load_state_dict(_under(f"{part}.", tensors))
    except (SafetensorError, RuntimeError) as error:
        raise _damaged(path, error) from error
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _under("optimizer.", tensors).items():
        number, _, name = key.partition(".")
        slots.setdefault(int(number), {})[name] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    state.best = _under("best.", tensors)
    if state.average:
        state.average.weights = _under("average.", tensors)
    if state.scaler.is_enabled():
        state.scaler.load_state_dict(header["scaler"])
    for name in ("epoch", "best_epoch", "best_score", "notes", "seconds"):
        setattr(state, name, header[name])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _damaged(path: Path, error: Exception) -> CorruptStoreError:
    return CorruptStoreError(f"{path} cannot be used: {error}", hint="remove the folder and train again")
