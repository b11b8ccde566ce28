"""What every file format offers: a matrix and columns to read, and a way to write a selection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.convert.matrix import Matrix
from featstore.convert.selection import Selection
from featstore.errors import BadInputError, UnknownNameError

__all__ = ["FEATURE_TYPES", "Format", "RawColumn", "Source", "check_matrix", "find", "plain_column"]

# text with None (or '') where there is none, or numbers
RawColumn = list[str | None] | NDArray[Any]

FEATURE_TYPES = tuple(
    np.dtype(name)
    for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")  # any byte order
)
# longer texts are no ids or names; a header may not make us allocate for them
_MAX_TEXT = 8192


@dataclass(frozen=True)
class Source:
    """An open file of features.

    Attributes:
        matrix: The features.
        columns: How to read each column beside them, by name; the values are one-dimensional.
        left_out: Why other things in the file are no columns, by name.
        elsewhere: Reads a column by its path from the file's root; None if nothing is there.
    """

    matrix: Matrix
    columns: Mapping[str, Callable[[], RawColumn]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Callable[[str], RawColumn | None] = field(default=lambda _name: None)


@dataclass(frozen=True, slots=True)
class Format:
    """A file format.

    Attributes:
        read: (file, name of the features in it, as the user gave it) → Source.
        write: Writes a selection to a fresh path.
        rows_beside: Whether the file holds the features only, so that ids, labels and columns go to a CSV beside it.
    """

    read: Callable[[Path, str], AbstractContextManager[Source]]
    write: Callable[[Path, Selection], None]
    rows_beside: bool = False


def find(names: Iterable[str], key: str, path: Path) -> str:
    """The name of the features.

    Raises:
        UnknownNameError: the file has nothing of that name.
    """
    known = list(names)
    if key not in known:
        raise UnknownNameError(f"array in {path.name}", key, known, hint="name the features with --key features=NAME")
    return key


def check_matrix(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    """Refuse features that are no matrix of numbers.

    Raises:
        BadInputError: another number of dimensions, no rows, or a type that no float holds (objects, text, complex numbers).
    """
    if len(shape) != 2 or min(shape) < 1:
        raise BadInputError(
            f"the features in {path} have shape {tuple(shape)}", hint="they must be rows × components, one row an item"
        )
    if dtype.newbyteorder("=") not in FEATURE_TYPES:
        raise BadInputError(
            f"the features in {path} are {dtype}, not numbers that can be stored",
            hint="save them as float16, float32, float64 or integers",
        )


def plain_column(values: NDArray[Any], name: str, path: Path) -> RawColumn:
    """Text of any kind (fixed width, bytes, objects that are strings) as a list, numbers as they are.

    Raises:
        BadInputError: bytes that are not UTF-8, or neither text nor numbers.
    """
    if values.dtype.kind in "biuf":
        return values
    if values.dtype.kind not in "USOT" or (values.dtype.kind in "US" and values.dtype.itemsize > 4 * _MAX_TEXT):
        raise BadInputError(
            f"'{name}' in {path} is {values.dtype}, neither text nor numbers",
            hint="save it as plain text or numbers; nothing is ever unpickled",
        )
    shared: dict[str, str] = {}
    return [_text(value, row, name, path, shared) for row, value in enumerate(values.tolist())]


def _text(value: Any, row: int, name: str, path: Path, shared: dict[str, str]) -> str | None:
    if value is None or value == "" or value == b"":
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise BadInputError(
                f"row {row} of '{name}' in {path} is not UTF-8: {value[:40]!r}", hint="write it as UTF-8"
            ) from error
    if not isinstance(value, str):
        raise BadInputError(
            f"row {row} of '{name}' in {path} is a {type(value).__name__}, not text", hint="use one kind in all rows"
        )
    # labels repeat, so equal texts are kept once
    return shared.setdefault(value, value)
