"""Values of columns, as files of other makers hold them: names and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from featstore.sources.source import ColumnValue

__all__ = ["Kind", "chosen_column", "parsed_as", "plain_value", "text_kind"]

Kind = Literal["int", "float", "text"]

_INT64 = 2**63
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_CODE = re.compile(r"\s*-?(0[0-9]+|[0-9]{16,})\s*", re.ASCII)


def plain_value(value: object) -> ColumnValue:
    """A name or a number of a row: truth values and dates become names, an integer beyond 64 bits a float."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else float(value)
    if isinstance(value, float):
        return value
    return str(value)


def text_kind(text: str, so_far: Kind) -> Kind:
    """The kind of a CSV's column after one more field: integers and floats are such as long as every field is one.

    Digits that writing the number back would lose are a code, not a number: 007, or more of them than a float holds.
    """
    if so_far == "text" or not text:
        return so_far
    if so_far == "int" and _INTEGER.fullmatch(text) and -_INT64 <= int(text) < _INT64:
        return "int"
    try:
        float(text)
    except ValueError:
        return "text"
    return "text" if _CODE.fullmatch(text) else "float"


def parsed_as(text: str, kind: Kind) -> ColumnValue:
    """A field of a CSV; an empty one is a missing value."""
    if not text or kind == "text":
        return text or None
    return int(text) if kind == "int" else float(text)


def chosen_column(given: str | None, usual: Iterable[str], names: Iterable[str]) -> str | None:
    """The column that the user named, or the first of the usual ones that is there."""
    if given is not None:
        return given
    there = set(names)
    return next((name for name in usual if name in there), None)
