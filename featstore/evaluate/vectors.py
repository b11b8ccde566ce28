"""Rows to be compared, wherever they are: read in blocks, normalised on the way if the score is a cosine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np

from featstore.errors import AlignmentError, BadInputError
from featstore.evaluate.blocking import thread_count
from featstore.evaluate.scores import UNIT_NORM, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.scores import ScoreKind, Side
    from featstore.store import FeatureSet

__all__ = [
    "ArrayVectors",
    "Concatenated",
    "PreparedRows",
    "Resized",
    "SetVectors",
    "SideBySide",
    "UnitVectors",
    "Vectors",
    "require_one_width",
]


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

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Rows in any order, as they are."""
        return np.asarray(self._array[rows])

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

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Rows of the selection in any order, in the set's dtype."""
        return self._features.gather(self._rows[rows])

    def names(self, rows: Sequence[int]) -> list[str]:
        """The ids."""
        return self._features.dataset.ids.take(self._rows[list(rows)])


class SideBySide:
    """The same rows of several matrices, one behind the other: the width is the sum of the widths."""

    def __init__(self, parts: Sequence[Vectors]) -> None:
        self._parts = parts
        self.rows = parts[0].rows
        self.width = sum(part.width for part in parts)

    def __str__(self) -> str:
        return " beside ".join(map(str, self._parts))

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop), float32."""
        return np.concatenate([part.read(start, stop) for part in self._parts], axis=1, dtype=np.float32)

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the first part calls them."""
        return self._parts[0].names(rows)


class UnitVectors:
    """Rows of norm 1, float32, as cosines score them.

    Reading raises NonFiniteError for a row without a direction.
    """

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self.rows = vectors.rows
        self.width = vectors.width

    def __str__(self) -> str:
        return str(self._vectors)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop)."""
        raw = self._vectors.read(start, stop)
        return prepare(raw, "cosine", "gallery", what=str(self), first_row=start, names=self.names)[0]

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the rows are called."""
        return self._vectors.names(rows)


class Resized:
    """Rows cut to their first `width` components, or filled up with zeros."""

    def __init__(self, vectors: Vectors, width: int) -> None:
        self._vectors = vectors
        self.width = width

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._vectors.rows

    def __str__(self) -> str:
        return str(self._vectors)

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop) at the new width."""
        rows = self._vectors.read(start, stop)[:, : self.width]
        return np.pad(rows, ((0, 0), (0, self.width - rows.shape[1])))

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the rows are called."""
        return self._vectors.names(rows)


class Concatenated:
    """The rows of several matrices of one width, one after another."""

    def __init__(self, parts: Sequence[Vectors]) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(part.rows for part in parts)]).tolist()
        self.width = self._parts[0].width
        for part in self._parts:
            if part.width != self.width:
                raise AlignmentError(f"{part} has width {part.width}, {self._parts[0]} width {self.width}")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._starts[-1])

    def __str__(self) -> str:
        return " and ".join(str(part) for part in self._parts)

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop), across the parts they lie in."""
        pieces = [
            part.read(max(start, first) - first, min(stop, first + part.rows) - first)
            for part, first in zip(self._parts, self._starts, strict=False)
            if max(start, first) < min(stop, first + part.rows)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros((0, self.width), np.float16), *pieces])

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the rows are called by the part they lie in."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        return [
            self._parts[part].names([row - self._starts[part]])[0]
            for part, row in zip(owner.tolist(), rows, strict=True)
        ]


def require_one_width(query: Vectors | PreparedRows, gallery: Vectors | PreparedRows) -> None:
    """Refuse to compare rows of different widths.

    Raises:
        AlignmentError: They differ.
    """
    if query.width != gallery.width:
        raise AlignmentError(f"queries have width {query.width}, gallery rows {gallery.width}")


class PreparedRows:
    """Rows as they are scored (`prepare`), made when they are read; kept in memory when they fit into `keep` bytes."""

    def __init__(self, vectors: Vectors, keep: int, *, kind: ScoreKind = "cosine", side: Side = "gallery") -> None:
        self._vectors = vectors
        self._kind = kind
        self._side = side
        self._norm = 0.0
        self.rows = vectors.rows
        self.width = vectors.width + (3 if kind == "euclidean" else 0)
        self._whole = self._read(0, self.rows) if self.rows * self.width * 4 <= keep else None

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) as [stop - start, width] float32, C order."""
        return self._read(start, stop) if self._whole is None else self._whole[start:stop]

    def blocks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The rows [start, stop) as (first row, block of at most `size` rows).

        With several threads, a block is prepared while the one before it is used. Rows are read in the caller's thread.
        """
        end = self.rows if stop is None else stop
        parts = [(first, min(first + size, end)) for first in range(start, end, size)]
        if self._whole is not None or thread_count() == 1:
            for first, last in parts:
                yield first, self.block(first, last)
            return
        with ThreadPoolExecutor(1) as pool:
            coming = None
            for first, last in [*parts, (end, end)]:
                ready = coming
                if first < end:
                    coming = first, pool.submit(self._prepared, first, self._vectors.read(first, last))
                if ready is not None:
                    yield ready[0], ready[1].result()

    def largest_norm(self) -> float:
        """The largest norm of the rows that were read so far; for cosines the same for all rows."""
        return self._norm

    def measured_norm(self, size: int) -> float:
        """The largest norm of all rows; reads them in blocks of `size` if that has to be found out."""
        if self._kind == "cosine":
            return UNIT_NORM
        if self._whole is None:
            for _ in self.blocks(size):
                pass
        return self._norm

    def _read(self, start: int, stop: int) -> NDArray[np.float32]:
        return self._prepared(start, self._vectors.read(start, stop))

    def _prepared(self, start: int, raw: NDArray[np.floating]) -> NDArray[np.float32]:
        rows, norm = prepare(
            raw, self._kind, self._side, what=str(self._vectors), first_row=start, names=self._vectors.names
        )
        self._norm = max(self._norm, norm)
        return rows
