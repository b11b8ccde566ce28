"""Rows that go through a learned map as they are read, so that a map is evaluated without storing what it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.maps import map_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.vectors import Vectors
    from featstore.maps import FeatureMap

__all__ = ["MappedVectors"]

# A float32 product changes in its last bits with the rows beside a row: rows are always mapped in the same company.
_TOGETHER = 1024


class MappedVectors:
    """Rows of a feature set behind a map.

    Args:
        features: The rows that go in, of the map's input space, side-information behind them.
        module: The map.
    """

    def __init__(self, features: Vectors, module: FeatureMap) -> None:
        self._features = features
        self._module = module

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._features.rows

    @property
    def width(self) -> int:
        """Components of a mapped row."""
        return self._module.out_width

    def __str__(self) -> str:
        return f"{self._features}, mapped"

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop), mapped: float32."""
        first = start - start % _TOGETHER
        parts = [
            map_block(self._module, self._features.read(begin, min(begin + _TOGETHER, self.rows)))
            for begin in range(first, stop, _TOGETHER)
        ]
        return np.concatenate(parts)[start - first : stop - first] if parts else np.empty((0, self.width), np.float32)

    def names(self, rows: Sequence[int]) -> list[str]:
        """The ids."""
        return self._features.names(rows)
