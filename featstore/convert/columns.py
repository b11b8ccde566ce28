"""Names of the columns that travel with features."""

from __future__ import annotations

from collections.abc import Container

from featstore.store import column_name

__all__ = ["KEYS", "SINGULAR", "free_name"]

KEYS = ("features", "ids", "labels")
# what people also call them; a CSV's header usually says it in the singular
SINGULAR = {"ids": "id", "labels": "label"}
_RESERVED = {*KEYS, *SINGULAR.values()}


def free_name(name: str, taken: Container[str]) -> str:
    """A column name that neither stands for the ids, labels or features themselves nor is taken already.

    Args:
        name: As a file or a dataset calls it.
        taken: Names of other columns.
    """
    plain = column_name(name)
    first = wanted = f"other_{plain}" if plain in _RESERVED else plain
    number = 2
    while wanted in taken:
        wanted = f"{first}_{number}"
        number += 1
    return wanted
