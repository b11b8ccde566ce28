"""Cached columns that several runs read, held once.

N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.store import FeatureSet
from featstore_training.batches import CachedColumn
from featstore_training.views import ViewedColumn

__all__ = ["ColumnCache"]

MOST_COLUMNS = 8  # new and old columns of a few seeds; a sweep that needs more reads again


class ColumnCache:
    """Remembers the columns asked for last."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, bool], CachedColumn] = {}

    def column(self, features: FeatureSet, rows: NDArray[np.int64], *, unit: bool) -> CachedColumn:
        """The column of these rows, read at most once while it is held."""
        key = (features.record.uuid, blake3(rows.tobytes()).hexdigest(), unit)
        column = self._held.pop(key, None) or CachedColumn(features, rows, unit=unit)
        self._held[key] = column
        while len(self._held) > MOST_COLUMNS:
            del self._held[next(iter(self._held))]
        return column

    def viewed(
        self, features: FeatureSet, views: Sequence[FeatureSet], rows: NDArray[np.int64], *, unit: bool, seed: int
    ) -> CachedColumn | ViewedColumn:
        """The column of these rows; with views, one that training steps see in views drawn by `seed`."""
        clean = self.column(features, rows, unit=unit)
        if not views:
            return clean
        return ViewedColumn(clean, [partial(self.column, view, rows, unit=unit) for view in views], seed)
