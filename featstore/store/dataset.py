"""A dataset at one version: ids, labels and columns of its rows, loaded when first asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import AlignmentError, CorruptStoreError, UnknownNameError, sample_of
from featstore.store.arrays import read_array
from featstore.store.columns import (
    Categories,
    Column,
    column_names,
    concatenate,
    missing_like,
    read_column,
    to_column,
)
from featstore.store.files import Files
from featstore.store.ids import Ids, check_ids
from featstore.store.names import check_name
from featstore.store.records import DatasetVersion
from featstore.store.where import select_rows

__all__ = ["Dataset", "NewRows", "segment_key"]

LABEL = "label"


@dataclass(frozen=True)
class NewRows:
    """Rows to be added to a dataset.

    Attributes:
        ids: One for each row; see `check_ids`.
        labels: Class name of each row, None where unlabelled; None for a dataset without labels.
        columns: Further columns by name, each with one value a row.
    """

    ids: Sequence[str]
    labels: Sequence[str | None] | None = None
    columns: Mapping[str, NDArray[Any] | Sequence[str | None] | Categories] = field(default_factory=dict)

    def checked(self) -> tuple[list[str], dict[str, Column]]:
        """Ids in NFC, and all columns (labels among them) in stored form.

        Raises:
            BadInputError: ids that cannot be, values that are neither text nor numbers.
            AlignmentError: a column with another number of rows.
        """
        ids = check_ids(self.ids)
        given = dict(self.columns) if self.labels is None else {LABEL: list(self.labels), **self.columns}
        columns = {check_name(name, "column"): to_column(values, name=name) for name, values in given.items()}
        for name, column in columns.items():
            if len(column) != len(ids):
                raise AlignmentError(f"column '{name}' has {len(column)} values for {len(ids)} rows")
        return ids, columns


class Dataset:
    """A dataset at one version. Row order is commit order; only `compact` ever renumbers rows, as a new layout.

    Attributes:
        name: Its name in the store.
        version: Number of the version that is read.
        layout: How often rows were renumbered; row numbers mean the same within one layout.
        rows: How many rows there are (`N`), removed ones included: they keep their numbers until `compact`.
        root: Folder the ids are relative to, None for rows that are not files.
    """

    def __init__(self, files: Files, record: DatasetVersion) -> None:
        self._files = files
        self.record = record
        self.name = record.name
        self.version = record.number
        self.layout = record.layout
        self.rows = record.rows
        self.root = record.root

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset, (self._files, self.record)  # what was read is read again elsewhere

    def __repr__(self) -> str:
        return f"Dataset({self.name}@{self.version}, {self.rows} rows)"

    @cached_property
    def ids(self) -> Ids:
        """The ids in row order."""
        parts = [(segment_key(self.name, s.name), s.start, s.stop) for s in self.record.segments]
        return Ids(self._files, parts, lambda: self.removed_rows)

    def rows_of(self, ids: Sequence[str], *, origin: str = "", advice: str = "") -> NDArray[np.int64]:
        """Row of each id, int64 [len(ids)]; `ids.rows_of` says −1 instead of raising.

        Args:
            ids: Ids that must be there.
            origin: Where they come from, for the message.
            advice: What else the hint says.

        Raises:
            AlignmentError: the dataset has no such ids (or not any more); they are listed.
        """
        rows = self.ids.rows_of(ids)
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            raise AlignmentError(
                f"{len(unknown):,} of {len(ids):,} ids{f' of {origin}' if origin else ''} are not in dataset {self.name}: "
                + sample_of((ids[n] for n in unknown[:5].tolist()), total=len(unknown)),
                hint=f"`featstore show {self.name}` shows what its ids look like{f'; {advice}' if advice else ''}",
            )
        return rows

    @cached_property
    def removed_rows(self) -> NDArray[np.int64]:
        """Rows that were removed, ascending: nothing selects them, no id finds them, no feature of them is read."""
        parts = []
        for removal in self.record.removed:
            rows = read_array(self._files, f"{segment_key(self.name, removal.name)}/row", removal.rows)
            if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
                raise CorruptStoreError(f"dataset {self.name} has removed rows beyond its {self.rows}")
            parts.append(rows)
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)

    def live_rows(self) -> NDArray[np.int64]:
        """Rows that were not removed, ascending."""
        keep = np.ones(self.rows, dtype=bool)
        keep[self.removed_rows] = False
        return np.flatnonzero(keep)

    @cached_property
    def column_names(self) -> list[str]:
        """Names of all columns, `label` among them where there are labels."""
        names = {name for overlay in self.record.overlays for name in overlay.columns}
        for segment in self.record.segments:
            names.update(column_names(self._files, segment_key(self.name, segment.name)))
        return sorted(names)

    @property
    def labels(self) -> Categories:
        """Class of each row; all −1 when the dataset has no labels."""
        if LABEL not in self.column_names:
            return Categories(np.full(self.rows, -1, dtype=np.int32), ())
        column = self.column(LABEL)
        if not isinstance(column, Categories):
            column = Categories.of([str(value) for value in column.tolist()])
        return column

    def column(self, name: str) -> Column:
        """A column over all rows: categories, int64 or float64; missing values are −1 or NaN.

        Raises:
            UnknownNameError: there is no such column.
        """
        if name not in self.column_names:
            raise UnknownNameError(f"column of dataset {self.name}", name, self.column_names)
        if name not in self._columns:
            self._columns[name] = self._load(name)
        return self._columns[name]

    def select(self, where: Sequence[str] = ()) -> NDArray[np.int64]:
        """Rows that pass every filter (see `featstore.store.where`), ascending."""
        return select_rows(self, where)

    @cached_property
    def _columns(self) -> dict[str, Column]:
        return {}

    def _load(self, name: str) -> Column:
        # an overlay covers a prefix of the rows, so the newest one wins there and the segments give the rest
        parts: list[Column] = []
        covered = 0
        for overlay in reversed(self.record.overlays):
            if name in overlay.columns:
                key = segment_key(self.name, overlay.name)
                found = read_column(self._files, key, name, overlay.rows)
                if found is None:
                    raise CorruptStoreError(
                        f"{self._files.where(key)} lacks column {name}",
                        hint="`featstore repair --from STORE`",
                    )
                parts, covered = [found], overlay.rows
                break
        holes: list[int] = []
        for segment in self.record.segments:
            if segment.stop <= covered:
                continue
            rows = segment.stop - segment.start
            found = read_column(self._files, segment_key(self.name, segment.name), name, rows)
            if found is None:
                holes.append(len(parts))
                parts.append(np.empty(rows))
            else:
                parts.append(found)
        known = next(part for number, part in enumerate(parts) if number not in holes)
        for number in holes:
            parts[number] = missing_like(known, len(parts[number]))
        return concatenate(parts, name=name)


def segment_key(dataset: str, segment: str) -> str:
    """Where a segment or overlay of a dataset lives."""
    return f"datasets/{dataset}/segments/{segment}"
