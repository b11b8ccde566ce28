"""What is fed to whatever is trained: cached features or images.

N rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Inputs", "Unchanging"]


class Inputs(Protocol):
    """Inputs of what is trained, by position among some rows.

    Attributes:
        workers: Threads that shall prepare batches ahead.
        block_rows: So many rows fit into memory together with their activations.
    """

    workers: int
    block_rows: int

    def __len__(self) -> int:
        """N."""

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Inputs as they are, float32 [len(positions), …]."""

    def training(self, positions: NDArray[np.int64], epoch: int) -> Tensor:
        """Inputs as an epoch sees them."""

    def blocks(self) -> Iterable[tuple[slice, Tensor]]:
        """All inputs as they are, in order, some at a time."""


class Unchanging:
    """Cached features as inputs: the same in every epoch, and a gather is too short to hand it to another thread."""

    workers = 0
    block_rows = 8192

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Rows by position."""
        raise NotImplementedError

    def training(self, positions: NDArray[np.int64], epoch: int) -> Tensor:
        """Rows by position."""
        del epoch
        return self.take(positions)
