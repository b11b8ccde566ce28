"""Columns of a dataset: categories (a class's identity is its name) and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import BadInputError, CorruptStoreError
from featstore.store.arrays import GroupWriter, read_array, read_strings
from featstore.store.files import Files

__all__ = [
    "Categories",
    "Column",
    "column_names",
    "concatenate",
    "missing_like",
    "read_column",
    "to_column",
    "write_column",
]


@dataclass(frozen=True, slots=True)
class Categories:
    """A column of names.

    Attributes:
        codes: int32 [N]; −1 where there is none.
        names: The name of each code. Two columns join by name, never by code.
    """

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: NDArray[np.int64]) -> Categories:
        """The same table over some rows."""
        return Categories(self.codes[rows], self.names)

    def occurring(self) -> Categories:
        """The same rows with a table of only the names that occur in them."""
        used = np.unique(self.codes[self.codes >= 0])
        codes = np.full(len(self.codes), -1, dtype=np.int32)
        there = self.codes >= 0
        codes[there] = np.searchsorted(used, self.codes[there])
        return Categories(codes, tuple(self.names[code] for code in used.tolist()))

    def texts(self) -> list[str | None]:
        """The name in each row, None where there is none."""
        return [self.names[code] if code >= 0 else None for code in self.codes.tolist()]

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> Categories:
        """Codes in order of sorted names, so the same rows give the same codes in any order of arrival."""
        names = sorted({text for text in texts if text is not None})
        code = {name: number for number, name in enumerate(names)}
        return cls(np.array([-1 if text is None else code[text] for text in texts], dtype=np.int32), tuple(names))


Column = Categories | NDArray[Any]


def to_column(values: Sequence[str | None] | NDArray[Any] | Categories, *, name: str) -> Column:
    """A column from what a caller has: text and booleans become categories, integers int64, floats float64.

    Raises:
        BadInputError: values of another kind (bytes, objects, complex numbers), or not one-dimensional.
    """
    if isinstance(values, Categories):
        return values
    array = np.asarray(values)
    if array.ndim != 1:
        raise BadInputError(f"column '{name}' has shape {array.shape}", hint="a column has one value a row")
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    listed = array.tolist()
    if array.dtype.kind == "b":
        return Categories.of([str(value).lower() for value in listed])
    if all(value is None or isinstance(value, str) for value in listed):
        return Categories.of(listed)
    raise BadInputError(
        f"column '{name}' holds {array.dtype}, which is neither text nor numbers", hint="convert it first"
    )


def missing_like(column: Column, rows: int) -> Column:
    """A column of `rows` missing values that can follow `column` (integers become floats, which can be missing)."""
    if isinstance(column, Categories):
        return Categories(np.full(rows, -1, dtype=np.int32), ())
    return np.full(rows, np.nan)


def concatenate(parts: list[Column], *, name: str) -> Column:
    """Several columns one after another; categories join by name.

    Raises:
        BadInputError: names and numbers are mixed.
    """
    categories = [part for part in parts if isinstance(part, Categories)]
    if not categories:
        return np.concatenate([part for part in parts if not isinstance(part, Categories)])
    if len(categories) != len(parts):
        raise BadInputError(f"column '{name}' is text in some rows and numbers in others", hint="use one kind")
    if len(categories) == 1:
        return categories[0]
    names = sorted({text for part in categories for text in part.names})
    code = {text: number for number, text in enumerate(names)}
    recoded = []
    for part in categories:
        table = np.array([code[text] for text in part.names] + [-1], dtype=np.int32)
        recoded.append(table[part.codes])  # code −1 takes the last entry, −1
    return Categories(np.concatenate(recoded), tuple(names))


def write_column(writer: GroupWriter, name: str, column: Column) -> None:
    """Add a column to a segment as `columns/NAME`."""
    if isinstance(column, Categories):
        writer.array(f"columns/{name}/codes", column.codes)
        writer.strings(f"columns/{name}/names", list(column.names))
    else:
        writer.array(f"columns/{name}/values", column)


def read_column(files: Files, segment: str, name: str, rows: int) -> Column | None:
    """A column of a segment of `rows` rows, None if the segment has no such column.

    Raises:
        CorruptStoreError: its bytes are not those that were written.
    """
    key = f"{segment}/columns/{name}"
    if files.exists(f"{key}/codes/zarr.json"):
        codes, names = read_array(files, f"{key}/codes", rows), tuple(read_strings(files, f"{key}/names"))
        if len(codes) and not -1 <= codes.min() <= codes.max() < len(names):
            raise CorruptStoreError(
                f"column {name} of {segment} has codes without names", hint="`featstore repair --from STORE`"
            )
        return Categories(codes, names)
    if files.exists(f"{key}/values/zarr.json"):
        return read_array(files, f"{key}/values", rows)
    if files.names(key):
        raise CorruptStoreError(f"{files.where(key)} lacks its metadata", hint="`featstore repair --from STORE`")
    return None


def column_names(files: Files, segment: str) -> list[str]:
    """Names of the columns of a segment."""
    return [name for name in files.names(f"{segment}/columns") if name != "zarr.json"]
