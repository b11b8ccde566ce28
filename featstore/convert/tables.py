"""A file of features with its ids, labels and columns, whatever the format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featstore.convert.columns import KEYS, SINGULAR, free_name
from featstore.convert.formats import RawColumn, Source, format_of
from featstore.convert.matrix import Matrix
from featstore.convert.rows_csv import read_rows
from featstore.errors import AlignmentError, BadInputError, NotFoundError, UnknownNameError

__all__ = ["Table", "open_table"]


@dataclass(frozen=True)
class Table:
    """Rows read from files.

    Attributes:
        matrix: The features.
        ids: One a row, or None.
        labels: Class name a row (None where unlabelled), or None for no labels at all.
        left_out: Why other things in the file are no columns, by name.
    """

    matrix: Matrix
    ids: list[str] | None
    labels: list[str | None] | None
    left_out: Mapping[str, str]
    _columns: Mapping[str, Callable[[], RawColumn]] = field(repr=False)
    _file: str = ""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.matrix.shape[0]

    @property
    def column_names(self) -> list[str]:
        """Names of the further columns, as the file calls them."""
        return list(self._columns)

    def columns(self) -> dict[str, RawColumn]:
        """The further columns by the name they get in a dataset.

        Raises:
            AlignmentError: one has another number of values than there are features.
        """
        found: dict[str, RawColumn] = {}
        for name, read in self._columns.items():
            values = read()
            _check_length(len(values), f"values of '{name}'", self.rows, self._file)
            found[free_name(name, found)] = values
        return found


@contextmanager
def open_table(path: Path, *, keys: Mapping[str, str] | None = None, rows_file: Path | None = None) -> Iterator[Table]:
    """Open a file of features for reading.

    Args:
        path: A file of one of `featstore.convert.formats`.
        keys: Where `features`, `ids` and `labels` are called otherwise, e.g. {"features": "emb"}; ids and labels may name a
            column of the CSV.
        rows_file: CSV with a header and one line a row, in the order of the features.

    Raises:
        NotFoundError: a file is missing.
        UsageError: a file type that is not known.
        UnknownNameError: the file holds nothing under a key.
        BadInputError: it holds pickled objects, another shape, links to other files, or cannot be read.
        AlignmentError: as many ids, labels or lines as there are not features.
        MissingExtraError: the file type needs a package that is not installed.
    """
    if not path.exists():
        raise NotFoundError(f"{path} does not exist", hint="check the path")
    if unknown := set(keys or {}) - set(KEYS):
        raise UnknownNameError("key to rename", unknown.pop(), KEYS)
    names = {key: (keys or {}).get(key, key) for key in KEYS}
    format_ = format_of(path)
    beside = {} if rows_file is None else read_rows(rows_file)
    with format_.read(path, names["features"]) as source:
        rows = source.matrix.shape[0]
        for column, _ in beside.values():
            if len(column) != rows:
                raise AlignmentError(
                    f"{rows_file} has {len(column):,} rows, {path.name} has {rows:,} features",
                    hint="give the CSV that was written with these features: one line a row, in the same order",
                )
        columns = {**source.columns, **{name: _given(meant) for name, (_, meant) in beside.items()}}
        texts = {name: column for name, (column, _) in beside.items()}
        found = {}
        for key in ("ids", "labels"):
            name, values = _pick(key, names[key], columns, texts, source)
            if values is None and key in (keys or {}):
                raise UnknownNameError(f"column for {key} of {path.name}", names[key], columns)
            if values is not None:
                _check_length(len(values), f"{key} ('{name}')", rows, path.name)
            found[key] = values
            columns.pop(name, None)
        yield Table(
            matrix=source.matrix,
            ids=None if found["ids"] is None else _ids(found["ids"], path),
            labels=None if found["labels"] is None else _class_names(found["labels"]),
            left_out=source.left_out,
            _columns=columns,
            _file=path.name,
        )


def _given(values: RawColumn) -> Callable[[], RawColumn]:
    return lambda: values


def _pick(
    key: str,
    name: str,
    columns: Mapping[str, Callable[[], RawColumn]],
    texts: Mapping[str, list[str]],
    source: Source,
) -> tuple[str, RawColumn | None]:
    """(name, values) of the ids or labels. Of a CSV it is the text as it stands there: 007 is no 7."""
    for candidate in (name, SINGULAR[key]) if name == key else (name,):
        if candidate in texts:
            return candidate, [text or None for text in texts[candidate]]
        if candidate in columns:
            return candidate, columns[candidate]()
        if candidate in source.left_out:
            raise BadInputError(
                f"the {key} ('{candidate}') cannot be used: {source.left_out[candidate]}",
                hint=f"{key} are one-dimensional, text or integers; name another array with --key {key}=NAME",
            )
        if (found := source.elsewhere(candidate)) is not None:
            return candidate, found
    return name, None


def _check_length(count: int, what: str, rows: int, file: str) -> None:
    if count != rows:
        raise AlignmentError(
            f"{file} has {rows:,} features and {count:,} {what}", hint="they must be one a row, in the same order"
        )


def _ids(values: RawColumn, path: Path) -> list[str]:
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iu":
            raise BadInputError(
                f"the ids in {path} are {values.dtype}",
                hint="ids are text or integers; name others with --key ids=NAME",
            )
        return [str(value) for value in values.tolist()]
    ids = [value for value in values if value is not None]
    if len(ids) != len(values):
        raise BadInputError(
            f"row {values.index(None)} of {path} has no id",
            hint="every row needs one; or name others with --key ids=NAME",
        )
    return ids


def _class_names(values: RawColumn) -> list[str | None]:
    """Names as text; negative numbers, NaN and empty text mean unlabelled."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind == "b":
        return [str(value).lower() for value in values.tolist()]
    # class 3 is '3', whether it came as an integer or as a float because others are missing
    return [None if not value >= 0 else str(int(value) if value == int(value) else value) for value in values.tolist()]
