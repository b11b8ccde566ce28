"""Ids, labels and columns as a CSV beside features.

In a file that quotes all its text (as `featstore export` and R write it) `"7"` is text and 7 a number; elsewhere a column of
numbers is numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from featstore.convert.formats import RawColumn
from featstore.convert.selection import Selection
from featstore.errors import BadInputError, NotFoundError

__all__ = ["read_rows", "write_rows"]


def read_rows(path: Path) -> dict[str, tuple[list[str], RawColumn]]:
    """Each column as it stands there and as what it means; an empty field is a missing one.

    Raises:
        NotFoundError: no such file.
        BadInputError: not UTF-8, no rows, a line with another number of fields, or two columns of one name.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist", hint="name the CSV with a header and one line a row")
    lines = _lines(path)
    header = next(lines, [])
    columns: list[list[str]] = [[] for _ in header]
    shared: dict[str, str] = {}  # labels repeat, so equal texts are kept once
    for line in lines:
        for column, field in zip(columns, line, strict=True):
            column.append(shared.setdefault(field, field))
    if not columns or not columns[0]:
        raise BadInputError(f"{path} has no rows", hint="it needs a header and one line a row")
    if len(set(header)) != len(header):
        raise BadInputError(f"{path} has two columns of one name: {', '.join(header)}", hint="rename one of them")
    quoted = _quoted(path, len(header))
    return {
        name: (column, [field or None for field in column] if name in quoted else _typed(column))
        for name, column in zip(header, columns, strict=True)
    }


def _lines(path: Path) -> Iterator[list[str]]:
    """Header and lines, all of one length."""
    length = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            for fields in reader:
                if not fields:  # an empty line
                    continue
                length = length or len(fields)
                if len(fields) != length:
                    raise BadInputError(
                        f"{path}, line {reader.line_num}: {len(fields)} fields instead of {length}",
                        hint="quote fields that hold commas or line breaks",
                    )
                yield fields
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8: {error}", hint="save it as UTF-8") from error
    except csv.Error as error:
        raise BadInputError(f"{path}, line {reader.line_num}: {error}", hint="write it as plain CSV") from error


def _quoted(path: Path, width: int) -> set[str]:
    """Columns whose text is quoted, in a file that quotes all text and no number; none in a file that does not."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        # in this mode the reader takes what is not quoted for a number, and fails if it is none
        reader = csv.reader(stream, quoting=csv.QUOTE_NONNUMERIC)
        try:
            header = [str(field) for field in next(reader)]
            text = [True] * width
            for line in reader:
                if line:
                    text = [here and isinstance(field, str) for here, field in zip(text, line, strict=True)]
        except ValueError:
            return set()
    return {name for name, here in zip(header, text, strict=True) if here}


def _typed(texts: list[str]) -> RawColumn:
    """Integers or floats if every field is one (and writing it back gives the same text), else text with '' missing."""
    try:
        if all(text.removeprefix("-").isascii() and str(int(text)) == text for text in texts):
            return np.array([int(text) for text in texts], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        if not any(_is_code(text) for text in texts):
            return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        pass
    return [text or None for text in texts]


def _is_code(text: str) -> bool:
    """Whether digits are a code rather than a number: 007, or more of them than a float holds."""
    digits = text.strip().removeprefix("-")
    return digits.isdigit() and ((digits.startswith("0") and digits != "0") or len(digits) > 15)


def write_rows(path: Path, chosen: Selection) -> None:
    """Write ids, labels and columns of what is exported, one line a row."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["ids", *chosen.columns])
        parts = [
            chosen.texts(name) if name in chosen.text_names else iter(chosen.numbers[name].tolist())
            for name in ("ids", *chosen.columns)
        ]
        writer.writerows(["" if value is None else value for value in row] for row in zip(*parts, strict=True))
