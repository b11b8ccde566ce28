"""Rows to be compared, wherever they are: read in blocks, normalised on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from featstore.errors import BadInputError
from featstore.evaluate.scores import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from featstore.store import FeatureSet

__all__ = ["ArrayVectors", "SetVectors", "UnitRows", "Vectors"]


class Vectors(Protocol):
    """A matrix [rows, width] that can be read block by block, in any order and more than once."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def width(self) -> int:
        """Components of a row (D)."""

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop) as stored: [stop - start, D], not normalised."""

    def names(self, rows: Sequence[int]) -> list[str]:
        """What to call these rows in a message."""


class ArrayVectors:
    """The rows of an array [N, D] of any floating-point dtype.

    Args:
        array: The rows; anything that slices into numpy arrays (a memmap, a Zarr array) will do.
        what: What they are, for messages.

    Raises:
        BadInputError: Not a matrix of floating-point numbers.
    """

    def __init__(self, array: NDArray[np.floating], what: str = "features") -> None:
        if array.ndim != 2 or array.dtype.kind != "f" or array.shape[1] == 0:
            shape = list(array.shape)
            raise BadInputError(
                f"{what}: expected a floating-point matrix [rows, width], got {array.dtype} of shape {shape}"
            )
        self._array = array
        self._what = what

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._array.shape[0])

    @property
    def width(self) -> int:
        """Components of a row (D)."""
        return int(self._array.shape[1])

    def __str__(self) -> str:
        return self._what

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop) as they are."""
        return np.asarray(self._array[start:stop])

    def names(self, rows: Sequence[int]) -> list[str]:
        """Row numbers."""
        return [str(row) for row in rows]


class SetVectors:
    """Some rows of a feature set, in the order of `rows`.

    Args:
        features: The feature set.
        rows: Dataset rows, int64 [n], all valid in the set.
    """

    def __init__(self, features: FeatureSet, rows: NDArray[np.int64]) -> None:
        self._features = features
        self._rows = rows

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    @property
    def width(self) -> int:
        """Components of a row (D)."""
        return self._features.width

    def __str__(self) -> str:
        return self._features.ref

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop) of the selection, in the set's dtype."""
        return self._features.gather(self._rows[start:stop])

    def names(self, rows: Sequence[int]) -> list[str]:
        """The ids."""
        return self._features.dataset.ids.take(self._rows[list(rows)])


class UnitRows:
    """Rows L2-normalised to float32 as they are read; kept in memory when all of them fit into `keep` bytes."""

    def __init__(self, vectors: Vectors, keep: int) -> None:
        self._vectors = vectors
        self.rows = vectors.rows
        self.width = vectors.width
        self._whole = self._read(0, self.rows) if self.rows * self.width * 4 <= keep else None

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) as [stop - start, D] float32 unit rows, C order."""
        return self._read(start, stop) if self._whole is None else self._whole[start:stop]

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All rows as (first row, block of at most `size` rows)."""
        for start in range(0, self.rows, size):
            yield start, self.block(start, min(start + size, self.rows))

    def _read(self, start: int, stop: int) -> NDArray[np.float32]:
        raw = self._vectors.read(start, stop)
        return normalise(raw, what=str(self._vectors), first_row=start, names=self._vectors.names)
