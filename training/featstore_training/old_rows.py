"""The cached old features of the training rows: class by class, or streamed past a batch.

N training rows, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featstore_training.inputs import Unchanging
from featstore_training.prototypes import Prototypes, class_means, class_scatter

__all__ = ["Column", "HeldColumn", "OldRows", "class_members"]


class Column(Protocol):
    """Rows of a feature set by their position."""

    @property
    def width(self) -> int:
        """D."""

    def __len__(self) -> int:
        """N."""

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Float [len(positions), D]."""

    def training(self, positions: NDArray[np.int64], epoch: int) -> Tensor:
        """The same as a training step of an epoch sees them."""

    def blocks(self) -> Iterable[tuple[slice, Tensor]]:
        """All rows in order, some at a time."""


class HeldColumn(Unchanging):
    """A column that is a tensor [N, D]."""

    def __init__(self, held: Tensor) -> None:
        self._held = held

    @property
    def width(self) -> int:
        """D."""
        return self._held.shape[1]

    def __len__(self) -> int:
        return len(self._held)

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Rows by position."""
        return self._held[torch.from_numpy(positions)]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order."""
        for start in range(0, len(self), self.block_rows):
            part = slice(start, min(start + self.block_rows, len(self)))
            yield part, self._held[part]


def class_members(labels: Tensor) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Class code and positions of its rows, for every class that has any."""
    codes = labels.numpy()
    order = np.argsort(codes, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(members):
            yield int(codes[members[0]]), members


class OldRows:
    """Old features of all training rows, L2-normalised.

    Args:
        column: Unit rows [N, D].
        labels: Class codes 0 … C−1, int64 [N].
        classes: `C`.
    """

    def __init__(self, column: Column, labels: Tensor, classes: int) -> None:
        self.column = column
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order: (positions, unit rows [n, D])."""
        yield from self.column.blocks()

    def by_class(self) -> Iterator[tuple[int, NDArray[np.int64], Tensor]]:
        """Class code, positions and unit rows [n, D] of every class that has any."""
        for code, members in class_members(self.labels):
            yield code, members, self.column.take(members)

    def prototypes(self) -> Prototypes:
        """Class means; one pass."""
        return class_means(self._labelled(), self.classes)

    def scatter(self, prototypes: Prototypes) -> Tensor:
        """Mean over rows of (f − class mean)(f − class mean)ᵀ, float64 [D, D]; one pass.

        Args:
            prototypes: Of these rows.
        """
        return class_scatter(self._labelled(), prototypes)

    def _labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((block, self.labels[part]) for part, block in self.blocks())
