"""The new side of a run: what is trained, what it reads, and how it is saved.

N rows, D_in width of cached features, D_n new width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from featstore.runs import RunCard
from featstore.spaces import Space
from featstore.store import Dataset
from featstore_training.batches import TrainingRows
from featstore_training.column_cache import ColumnCache
from featstore_training.inputs import Inputs
from featstore_training.objectives import Objective

__all__ = ["NewSide"]


class NewSide(Protocol):
    """The new side of a run.

    Attributes:
        dataset: Whose rows are read.
        width: Of the cached features, or of the backbone's output.
        identity: Says in the request what is read, as plain JSON.
        start: Digest of the space that training starts from: of the cached features, or of the untrained backbone.
        weights: Name of the weights' file in the run folder.
        mode: `head` or `full`.
        unused: Settings of a run that mean nothing in this mode.
    """

    dataset: Dataset
    width: int
    identity: str
    start: str
    weights: str
    mode: str
    unused: frozenset[str]

    def natural_width(self, method: type[Objective], old: int | None, side: int | None) -> int:
        """D_n where none is asked for, from the widths of the old and the side set."""

    def inputs(self, rows: NDArray[np.int64], cache: ColumnCache) -> Inputs:
        """Inputs of some dataset rows."""

    def raw(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]] | None:
        """What retrieval can do with these rows before training, [N, D_in]; None where that says nothing."""

    def build(self, seed: int, width: int, rows: TrainingRows) -> nn.Module:
        """What is trained, at its start."""

    def space(self, module: nn.Module, name: str) -> Space:
        """The space of its outputs."""

    def save(
        self,
        folder: Path,
        module: nn.Module,
        *,
        name: str,
        compatible_with: tuple[str, ...],
        training: dict[str, Any],
        extra_files: tuple[str, ...],
    ) -> RunCard:
        """Write it as a run folder, the card last."""
