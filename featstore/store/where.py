"""`--where` filters: `split=test`, `capture=train,val`, `camera!=3`, `id=@file.txt`; several are joined by "and"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.errors import NotFoundError, UnknownNameError, UsageError, sample_of
from featstore.store.columns import Categories, Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.store.dataset import Dataset

__all__ = ["Filter", "parse_filter", "select_rows"]


class Filter(NamedTuple):
    """One parsed filter: rows whose `column` is (or, if `negated`, is not) among `values`."""

    column: str
    values: tuple[str, ...]
    negated: bool


def parse_filter(text: str) -> Filter:
    """`COLUMN=VALUE[,VALUE…]` or `COLUMN!=VALUE…`; `@FILE` stands for the lines of a file.

    Raises:
        UsageError: the text has another form.
        NotFoundError: the file is not there.
    """
    column, equals, value = text.partition("=")
    negated = column.endswith("!")
    column = column.removesuffix("!").strip()
    if not equals or not column or not value:
        raise UsageError(f"cannot read the filter '{text}'", hint="write COLUMN=VALUE, COLUMN=A,B or COLUMN!=VALUE")
    if value.startswith("@"):
        path = Path(value[1:])
        if not path.is_file():
            raise NotFoundError(
                f"the filter '{text}' names {path}, which does not exist",
                hint="write one value a line into it, or say where it is; @ is for files alone",
            )
        values = tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line)
    else:
        values = tuple(part.strip() for part in value.split(","))
    return Filter(column, values, negated)


def select_rows(dataset: Dataset, where: Sequence[str]) -> NDArray[np.int64]:
    """Rows that pass every filter, ascending, int64.

    Raises:
        UnknownNameError: the dataset has no such column.
        UsageError: no row passes.
    """
    keep = np.ones(dataset.rows, dtype=bool)
    keep[dataset.removed_rows] = False
    for text in where:
        condition = parse_filter(text)
        if condition.column == "id":
            inside = np.zeros(dataset.rows, dtype=bool)
            rows = dataset.ids.rows_of(condition.values)
            inside[rows[rows >= 0]] = True
        elif condition.column in dataset.column_names:
            inside = _matches(dataset.column(condition.column), condition)
        else:
            raise UnknownNameError(
                f"column of dataset {dataset.name}",
                condition.column,
                ["id", *dataset.column_names],
                hint="`featstore dataset split` or `featstore dataset add-columns` adds one",
            )
        keep &= inside != condition.negated
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise UsageError(
            f"no row of dataset {dataset.name} passes {' and '.join(where) or 'any filter'}",
            hint=_values_hint(dataset, where),
        )
    return rows


def _matches(column: Column, condition: Filter) -> NDArray[np.bool_]:
    if isinstance(column, Categories):
        wanted = set(condition.values)
        table = np.array([name in wanted for name in column.names] + [False])
        return np.asarray(table[column.codes])  # code −1 takes the last entry, False
    try:
        numbers = [float(value) for value in condition.values]
    except ValueError:
        raise UsageError(
            f"column '{condition.column}' holds numbers, the filter asks for {sample_of(condition.values)}",
            hint=f"write numbers: {condition.column}=3",
        ) from None
    return np.isin(column, numbers)


def _values_hint(dataset: Dataset, where: Sequence[str]) -> str:
    columns = {parse_filter(text).column for text in where}
    parts = [f"`featstore show {dataset.name}` shows what its ids look like"] if "id" in columns else []
    for name in sorted(columns - {"id"}):
        column = dataset.column(name)
        values = column.names if isinstance(column, Categories) else np.unique(column).tolist()
        parts.append(f"{name} is one of {sample_of(values, 8)}")
    return "; ".join(parts)
