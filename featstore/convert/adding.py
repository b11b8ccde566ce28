"""Columns from a CSV into a dataset, matched by id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.convert.rows_csv import read_rows
from featstore.errors import BadInputError
from featstore.store import Categories, Column, Dataset, Store, column_name

__all__ = ["AddedColumns", "add_columns"]

_ID_NAMES = ("id", "ids")


@dataclass(frozen=True, slots=True)
class AddedColumns:
    """What was added.

    Attributes:
        dataset: `DATASET@version`.
        columns: Names of the columns, as the dataset calls them.
        rows: Rows that the file says something about.
        left: Rows of the dataset that it does not mention; they keep what the column held before, or have nothing.
    """

    dataset: str
    columns: tuple[str, ...]
    rows: int
    left: int


def add_columns(store: Store, name: str, path: Path) -> AddedColumns:
    """Add the columns of a CSV to a dataset, or replace those it has; rows are matched by the column `id`.

    Args:
        store: The store.
        name: The dataset.
        path: CSV with a header; a column of numbers becomes numbers, any other names.

    Raises:
        BadInputError: no column `id` or no other column, an id twice, or numbers where the dataset has names.
        AlignmentError: ids that the dataset does not have.
    """
    dataset = store.dataset(name)
    table = read_rows(path)
    key = next((name for name in _ID_NAMES if name in table), None)
    if key is None or len(table) == 1:
        raise BadInputError(f"{path} has the columns {', '.join(table)}", hint="it needs a column 'id' and another one")
    ids = table.pop(key)[0]
    rows = dataset.rows_of(ids, origin=str(path), advice="nothing was added")
    if len(np.unique(rows)) != len(rows):
        raise BadInputError(f"{path} has ids that stand there twice", hint="keep one line for each id")
    columns = {column_name(header): _column(dataset, header, raw, rows) for header, (_, raw) in table.items()}
    if len(columns) != len(table):
        raise BadInputError(f"{path} has two columns that would have one name", hint="rename one of them")
    made = store.add_columns(name, columns, provenance={"made by": "add-columns", "file": path.name})
    left = len(made.live_rows()) - len(rows)
    return AddedColumns(f"{made.name}@{made.version}", tuple(columns), len(rows), left)


def _column(dataset: Dataset, header: str, raw: list[str | None] | NDArray[Any], rows: NDArray[np.int64]) -> Column:
    """The values by row; rows the file does not mention keep theirs."""
    name = column_name(header)
    held = dataset.column(name) if name in dataset.column_names else None
    if isinstance(raw, list):
        if held is not None and not isinstance(held, Categories):
            raise BadInputError(
                f"column '{name}' holds numbers in dataset {dataset.name}", hint="choose another header"
            )
        texts: list[str | None] = held.texts() if held is not None else [None] * dataset.rows
        for row, text in zip(rows.tolist(), raw, strict=True):
            texts[row] = text
        return Categories.of(texts)
    if isinstance(held, Categories):
        raise BadInputError(f"column '{name}' holds names in dataset {dataset.name}", hint="choose another header")
    if len(rows) == dataset.rows:
        values = np.zeros(dataset.rows, dtype=raw.dtype)
    elif held is not None:
        values = held.astype(np.result_type(held, raw))
    else:
        values = np.full(dataset.rows, np.nan)
    values[rows] = raw
    return values
