"""Cached columns of the same rows, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featstore_training.inputs import Inputs
from featstore_training.old_rows import Column

__all__ = ["ColumnInputs", "JoinedColumns"]


class JoinedColumns:
    """[N, D₁ + D₂ + …].

    Args:
        parts: Columns of the same N rows.
    """

    def __init__(self, parts: Sequence[Column]) -> None:
        self._parts = parts

    @property
    def width(self) -> int:
        """Of all parts together."""
        return sum(part.width for part in self._parts)

    def __len__(self) -> int:
        return len(self._parts[0])

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Rows by position."""
        return torch.cat([part.take(positions) for part in self._parts], dim=1)

    def training(self, positions: NDArray[np.int64], epoch: int) -> Tensor:
        """Rows by position, as an epoch sees them."""
        return torch.cat([part.training(positions, epoch) for part in self._parts], dim=1)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order."""
        for blocks in zip(*(part.blocks() for part in self._parts), strict=True):
            yield blocks[0][0], torch.cat([block for _, block in blocks], dim=1)


class ColumnInputs(Inputs):
    """Any column as what is trained on."""

    workers = 0
    block_rows = 8192

    def __init__(self, column: Column) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Rows by position."""
        return self._column.take(positions)

    def training(self, positions: NDArray[np.int64], epoch: int) -> Tensor:
        """Rows by position, as an epoch sees them."""
        return self._column.training(positions, epoch)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order."""
        yield from self._column.blocks()
