"""What an export writes: the valid rows of a feature set with ids, labels and columns, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.convert.columns import free_name
from featstore.convert.matrix import block_rows
from featstore.errors import BadInputError
from featstore.progress import Progress
from featstore.store import Categories, Column, FeatureSet

__all__ = ["Selection"]

_TEXT_ROWS = 8192


@dataclass(frozen=True)
class Selection:
    """Some rows of a feature set.

    Attributes:
        features: The set.
        rows: Rows that are written, ascending.
        columns: Further columns of these rows; `labels` first, if there are any.
        progress: Listener; advances with the features.
    """

    features: FeatureSet
    rows: NDArray[np.int64]
    columns: dict[str, Column]
    progress: Progress

    @classmethod
    def of(cls, features: FeatureSet, progress: Progress) -> Selection:
        """All valid rows with everything the dataset knows about them."""
        rows = features.valid_rows()
        dataset = features.dataset
        columns: dict[str, Column] = {"labels": dataset.labels[rows]} if "label" in dataset.column_names else {}
        for name in dataset.column_names:
            if name != "label":
                columns[free_name(name, columns)] = dataset.column(name)[rows]
        return cls(features, rows, columns, progress)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, components)."""
        return len(self.rows), self.features.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the features, little-endian."""
        return self.features.dtype.newbyteorder("<")

    @property
    def text_names(self) -> list[str]:
        """Names of the columns that hold text, `ids` first."""
        return ["ids", *(name for name, column in self.columns.items() if isinstance(column, Categories))]

    @property
    def numbers(self) -> dict[str, NDArray[Any]]:
        """The columns that hold numbers."""
        return {name: column for name, column in self.columns.items() if not isinstance(column, Categories)}

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The features, block by block."""
        step = block_rows(self.features.width * self.dtype.itemsize)
        for start in range(0, len(self.rows), step):
            block = self.features.gather(self.rows[start : start + step]).astype(self.dtype, copy=False)
            yield block
            self.progress.advance(len(block))

    def texts(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[str | None]:
        """The ids or a column of text from row `start` on; None where there is none."""
        end = len(self.rows) if stop is None else min(stop, len(self.rows))
        column = self.columns.get(name)
        for first in range(start, end, _TEXT_ROWS):
            part = slice(first, min(first + _TEXT_ROWS, end))
            if isinstance(column, Categories):
                yield from Categories(column.codes[part], column.names).texts()
            else:
                yield from self.features.dataset.ids.take(self.rows[part])

    def written(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The same for formats that have no missing text: it becomes ''.

        Raises:
            BadInputError: a text holds a NUL character, at which these formats cut it.
        """
        for text in self.texts(name, start, stop):
            if text is not None and "\0" in text:
                raise BadInputError(
                    f"column '{name}' of {self.features.ref} has a text with a NUL character: {text[:40]!r}",
                    hint="this file type cannot hold it; export to .parquet",
                )
            yield text or ""
