"""What a gallery is before rows of it are backfilled: a stored set, or one behind a map.

N rows, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.evaluate.mapped import MappedVectors
from featstore.evaluate.vectors import SetVectors, SideBySide, Vectors
from featstore.maps import load_map, map_rows, outcomes
from featstore.spaces import Space
from featstore.store import FeatureSet, RowFailure, common_rows

__all__ = ["BaseRows", "MappedRows", "StoredRows"]


class BaseRows(Protocol):
    """Rows [0, N) of a dataset, in one space or several.

    Attributes:
        features: The stored set that tells dataset, rows and input digests.
        rows: N.
        space: Where the rows lie.
        dtype: What they are stored as.
        source: What they are made from, exactly; the same text means the same rows.
    """

    features: FeatureSet
    rows: int
    space: Space
    dtype: np.dtype[Any]
    source: str

    def outcomes(self) -> tuple[NDArray[np.uint8], list[RowFailure]]:
        """RowStatus of every row [N], and why rows failed."""

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop), a fresh array [stop − start, D]; NaN where there is no feature."""

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """Some valid rows, for orders that look at them."""

    def provenance(self) -> dict[str, Any]:
        """What they are, as plain JSON."""


class StoredRows:
    """The rows of a feature set as they are; of a mixed one, which lies where is kept."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.rows = features.rows
        self.space = features.space
        self.dtype = features.dtype
        self.source = f"{features.ref} {features.record.uuid}"

    def outcomes(self) -> tuple[NDArray[np.uint8], list[RowFailure]]:
        """As the set says."""
        return outcomes([self.features], self.rows)

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Stored rows."""
        out = np.empty((stop - start, self.features.width), self.dtype)
        for first, block in self.features.scan(rows=(start, stop)):
            out[first - start : first - start + len(block)] = block
        return out

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """Stored rows."""
        return SetVectors(self.features, rows)

    def provenance(self) -> dict[str, Any]:
        """The set."""
        return {"from": self.features.ref}


class MappedRows:
    """The rows of a feature set behind a map.

    Args:
        features: What goes in.
        run: Run folder of the map.
        sides: The side-information that it takes.

    Raises:
        SpaceMismatchError: the map was made for other spaces.
        AlignmentError: the side-information belongs to another dataset.
    """

    def __init__(self, features: FeatureSet, run: Path, sides: list[FeatureSet]) -> None:
        self._map = load_map(run)
        self._map.require_inputs(features, sides)
        common_rows([features, *sides])
        self._sides = sides
        self._run = run
        self.features = features
        self.rows = min(item.rows for item in (features, *sides))
        self.space = self._map.space
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        sources = [f"{item.ref} {item.record.uuid}" for item in (features, *sides)]
        self.source = ", ".join([*sources, str(self.space.identity["map"])])

    def outcomes(self) -> tuple[NDArray[np.uint8], list[RowFailure]]:
        """A row needs a feature in every set that goes in."""
        return outcomes([self.features, *self._sides], self.rows)

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Mapped rows."""
        out = np.empty((stop - start, self.space.width), np.float32)
        map_rows(self._map.module, self.features, self._sides, start, stop, out)
        return out

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """Mapped rows."""
        parts: list[Vectors] = [SetVectors(item, rows) for item in (self.features, *self._sides)]
        return MappedVectors(SideBySide(parts) if self._sides else parts[0], self._map.module)

    def provenance(self) -> dict[str, Any]:
        """The set and the map."""
        beside = {"side": ", ".join(item.ref for item in self._sides)} if self._sides else {}
        return {"from": self.features.ref, "map": self._run.name, **beside}
