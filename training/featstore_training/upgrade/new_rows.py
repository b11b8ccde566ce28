"""Where rows of a gallery get their new features from; here, from a set that has them.

N rows, D width.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.spaces import Space
from featstore.store import FeatureSet

__all__ = ["NewRows", "TakenRows"]


class NewRows(Protocol):
    """New features by dataset row.

    Attributes:
        name: What provenance says.
        source: What they are made from, exactly.
        space: Where they lie.
        dtype: What they come as.
        sure: Whether every row that it has can be taken; images may turn out to be unreadable.
        encoded: Images that were encoded so far.
    """

    name: str
    source: str
    space: Space
    dtype: np.dtype[Any]
    sure: bool
    encoded: int

    def has(self, rows: int) -> NDArray[np.bool_]:
        """Which of the first rows it has, bool [rows]."""

    def take(self, rows: NDArray[np.int64], out: NDArray[Any], digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Put features of rows into `out` [n, D] and digests of their inputs into `digests` [n, 16]; which were had."""


class TakenRows:
    """New features that a set has already."""

    sure = True
    encoded = 0

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self.name = features.ref
        self.source = f"{features.ref} {features.record.uuid}"
        self.space = features.space
        self.dtype = features.dtype

    def has(self, rows: int) -> NDArray[np.bool_]:
        """Its valid rows."""
        valid = self._features.valid_rows()
        found = np.zeros(rows, bool)
        found[valid[valid < rows]] = True
        return found

    def take(self, rows: NDArray[np.int64], out: NDArray[Any], digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Stored features."""
        out[...] = self._features.gather(rows)
        digests[...] = self._digests[rows]
        return np.ones(len(rows), bool)

    @cached_property
    def _digests(self) -> NDArray[np.uint8]:
        return self._features.input_digests()
