"""The classifier that a model was trained with, read from its run folder and frozen: the old one, or FastFill's new one.

B batch, C_o classes of that run, D_o its width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from featstore.errors import CorruptStoreError, TrainingError, UsageError
from featstore.runs import read_card
from featstore.spaces import Space, require_same
from featstore_training.head_config import HeadConfig
from featstore_training.heads import Head, build_head

__all__ = ["CLASSIFIER", "OldHead", "OldRun", "read_old_run"]

CLASSIFIER = "classifier.safetensors"


@dataclass(frozen=True, slots=True)
class OldHead:
    """A frozen classifier and where the new classes stand in it.

    Attributes:
        head: With the old weights; its `logits` have no margin.
        column: For each new class the old class of the same name, int64 [C]; −1 where the old model never saw it.
    """

    head: Head
    column: Tensor


@dataclass(frozen=True, slots=True)
class OldRun:
    """A finished run whose features are the old set.

    Attributes:
        head: Its classifier, frozen.
        config: What the classifier is.
        class_names: Name of each of its classes [C_o].
        assigned: Vertex of every class name so far, for a simplex.
        lineage: Generations up to and including this run, oldest first, as plain JSON.
        digest: Of the classifier's file.
    """

    head: Head
    config: HeadConfig
    class_names: tuple[str, ...]
    assigned: dict[str, int]
    lineage: tuple[dict[str, Any], ...]
    digest: str

    def for_classes(self, class_names: tuple[str, ...]) -> OldHead:
        """Its classifier as seen by classes of these names."""
        place = {name: number for number, name in enumerate(self.class_names)}
        return OldHead(self.head, torch.tensor([place.get(name, -1) for name in class_names]))


def read_old_run(folder: Path, space: Space, role: Literal["old", "new"] = "old") -> OldRun:
    """What a run folder says about the model that made a set.

    Args:
        folder: The run folder.
        space: Of the set; the run must have made it.
        role: Which set that is.

    Raises:
        NotFoundError, CorruptStoreError: no run folder, or its files are not what its card lists.
        SpaceMismatchError: another model made the set.
        UsageError: the run stores no classifier.
    """
    card = read_card(folder)
    require_same(
        card.space,
        space,
        what=f"the run in {folder} as the {role} model",
        hint=f"give the run whose features --{role} names",
    )
    described = card.training.get("head")
    if CLASSIFIER not in card.files or not described:
        raise UsageError(f"{folder} stores no classifier", hint="give a folder that `featstore train` wrote")
    names = tuple(described["class_names"])
    config: HeadConfig = TypeAdapter(HeadConfig).validate_python(described["config"])
    assigned = described.get("assigned", {})
    vertices = torch.tensor([assigned[name] for name in names]) if assigned else None
    head = build_head(config, len(names), card.space.width, torch.Generator(), vertices)
    try:
        head.load_state_dict(load((folder / CLASSIFIER).read_bytes()))
    except (SafetensorError, RuntimeError) as error:
        raise CorruptStoreError(
            f"{folder / CLASSIFIER} does not hold the classifier that its card describes: {error}",
            hint="copy the run folder again",
        ) from error
    if any(not bool(weight.isfinite().all()) for weight in head.state_dict().values()):
        raise TrainingError(f"{folder / CLASSIFIER} holds NaN or infinity", hint=f"train the {role} model again")
    head.requires_grad_(requires_grad=False)
    itself = {"name": card.space.name, "space": card.space.digest, "loss": card.training["config"]["loss"]}
    lineage = (*card.training["lineage"], itself)
    return OldRun(head, config, names, assigned, lineage, card.files[CLASSIFIER])
