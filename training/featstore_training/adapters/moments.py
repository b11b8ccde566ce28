"""Sums over pairs of rows that closed forms are solved from: added up block by block, merged in any order.

N rows, D_x and D_y widths.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Moments"]


@dataclass(slots=True)
class Moments:
    """Sums over pairs (x, y), float64; their size does not depend on how many pairs there were.

    Attributes:
        rows: N.
        x: Σ x, [D_x].
        y: Σ y, [D_y].
        yx: Σ y xᵀ, [D_y, D_x].
        xx: Σ x xᵀ, [D_x, D_x].
    """

    rows: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    yx: NDArray[np.float64]
    xx: NDArray[np.float64]

    @classmethod
    def of(cls, blocks: Iterable[tuple[Tensor, Tensor]], width_x: int, width_y: int) -> Moments:
        """Of pairs that come in blocks, each [n, D_x] and [n, D_y]; one pass, one block in memory.

        Args:
            blocks: The pairs.
            width_x: `D_x`.
            width_y: `D_y`.
        """
        sums = cls(0, np.zeros(width_x), np.zeros(width_y), np.zeros((width_y, width_x)), np.zeros((width_x, width_x)))
        for left, right in blocks:
            x, y = left.double().numpy(), right.double().numpy()
            sums.rows += len(x)
            sums.x += x.sum(axis=0)
            sums.y += y.sum(axis=0)
            sums.yx += y.T @ x
            sums.xx += x.T @ x
        return sums

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows, self.x + other.x, self.y + other.y, self.yx + other.yx, self.xx + other.xx
        )

    def centred(self) -> Moments:
        """The same sums with the means taken off every row; `x` and `y` stay."""
        return Moments(
            self.rows,
            self.x,
            self.y,
            self.yx - np.outer(self.y, self.x) / self.rows,
            self.xx - np.outer(self.x, self.x) / self.rows,
        )

    @property
    def mean_x(self) -> NDArray[np.float64]:
        """Mean of x, [D_x]."""
        return self.x / self.rows

    @property
    def mean_y(self) -> NDArray[np.float64]:
        """Mean of y, [D_y]."""
        return self.y / self.rows
