"""Commits to a dataset: its first rows, more rows, more columns, fewer rows, all rows in one piece. Each is a new version."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import AlignmentError, AlreadyExistsError, ConflictError, NotFoundError, UsageError, sample_of
from featstore.store.arrays import GroupWriter
from featstore.store.columns import Categories, to_column, write_column
from featstore.store.dataset import Dataset, NewRows, segment_key
from featstore.store.files import Files
from featstore.store.ids import write_ids
from featstore.store.log import Log
from featstore.store.names import check_name
from featstore.store.records import DatasetVersion, Overlay, Removal, RowSegment

__all__ = ["append", "create", "overlay", "relocate", "remove", "rewrite", "rows_log"]


def rows_log(files: Files, name: str) -> Log[DatasetVersion]:
    """The versions of a dataset."""
    return Log(files, f"datasets/{name}", DatasetVersion)


def create(files: Files, name: str, rows: NewRows, *, root: str | None, provenance: dict[str, Any]) -> DatasetVersion:
    """Commit the first version; see `Store.create_dataset`."""
    log = rows_log(files, name)
    taken = AlreadyExistsError(f"dataset {name} exists already", hint="choose another name, or add rows to it")
    if log.numbers():
        raise taken
    segment = _write_rows(files, name, rows, start=0)

    def build(newest: DatasetVersion | None, number: int) -> DatasetVersion:
        if newest is not None:
            raise taken
        return DatasetVersion(
            name=name,
            number=number,
            parent=None,
            rows=segment.stop,
            root=root,
            segments=(segment,),
            provenance=provenance,
        )

    return log.commit(build)


def append(files: Files, name: str, rows: NewRows, *, provenance: dict[str, Any]) -> DatasetVersion:
    """Commit more rows; see `Store.append_rows`."""
    written: list[RowSegment] = []

    def build(newest: DatasetVersion | None, number: int) -> DatasetVersion:
        existing = _existing(newest, name)
        # another writer may have added rows since the last try, so ids are checked against what is there now
        present = Dataset(files, existing).ids.rows_of(list(rows.ids))
        if (present >= 0).any():
            known = np.flatnonzero(present >= 0).tolist()
            raise AlreadyExistsError(
                f"dataset {name} has {len(known):,} of these ids already: {sample_of(rows.ids[row] for row in known)}",
                hint="append rows with new ids only",
            )
        if not written:
            written.append(_write_rows(files, name, rows, start=existing.rows))
        # its files do not say where it begins, so after a lost race it is listed further on
        segment = written[0].model_copy(update={"start": existing.rows, "stop": existing.rows + len(rows.ids)})
        return existing.successor(
            number, provenance=provenance, rows=segment.stop, segments=(*existing.segments, segment)
        )

    return rows_log(files, name).commit(build)


def overlay(
    files: Files,
    dataset: Dataset,
    columns: Mapping[str, NDArray[Any] | Sequence[str | None] | Categories],
    *,
    provenance: dict[str, Any],
) -> DatasetVersion:
    """Commit columns over the rows of a dataset; see `Store.add_columns`."""
    checked = {check_name(key, "column"): to_column(values, name=key) for key, values in columns.items()}
    for key, column in checked.items():
        if len(column) != dataset.rows:
            raise AlignmentError(
                f"column '{key}' has {len(column)} values, dataset {dataset.name} has {dataset.rows} rows",
                hint="give one value for each row, in row order",
            )
    name = f"columns-{os.urandom(6).hex()}"
    writer = GroupWriter(files, segment_key(dataset.name, name))
    for key, column in checked.items():
        write_column(writer, key, column)
    added = Overlay(name=name, rows=dataset.rows, columns=tuple(checked), digest=writer.seal())

    def build(newest: DatasetVersion | None, number: int) -> DatasetVersion:
        existing = _same_layout(newest, dataset)
        return existing.successor(number, provenance=provenance, overlays=(*existing.overlays, added))

    return rows_log(files, dataset.name).commit(build)


def remove(files: Files, dataset: Dataset, rows: NDArray[np.int64], *, provenance: dict[str, Any]) -> DatasetVersion:
    """Commit that rows are no longer there; see `Store.remove_rows`."""
    name = f"removed-{os.urandom(6).hex()}"
    writer = GroupWriter(files, segment_key(dataset.name, name))
    writer.array("row", np.unique(rows))
    added = Removal(name=name, rows=len(np.unique(rows)), digest=writer.seal())

    def build(newest: DatasetVersion | None, number: int) -> DatasetVersion:
        existing = _same_layout(newest, dataset)
        return existing.successor(number, provenance=provenance, removed=(*existing.removed, added))

    return rows_log(files, dataset.name).commit(build)


def relocate(files: Files, name: str, root: str | None, *, provenance: dict[str, Any]) -> DatasetVersion:
    """Commit another folder that the ids are relative to; see `Store.relocate`."""

    def build(newest: DatasetVersion | None, number: int) -> DatasetVersion | None:
        existing = _existing(newest, name)
        return None if existing.root == root else existing.successor(number, provenance=provenance, root=root)

    return rows_log(files, name).commit(build)


def rewrite(files: Files, dataset: Dataset, *, provenance: dict[str, Any]) -> DatasetVersion:
    """Commit the rows of a dataset in one segment, columns folded in; a new layout without those removed, if any were.

    Raises:
        ConflictError: another version was committed meanwhile.
    """
    live = dataset.live_rows()
    segments: tuple[RowSegment, ...] = ()
    if len(live):
        columns = {}
        for name in dataset.column_names:
            column = dataset.column(name)[live]
            columns[name] = column.occurring() if isinstance(column, Categories) else column
        keep = np.isin(np.arange(dataset.rows), live)
        rows = NewRows(ids=list(compress(dataset.ids, keep.tolist())), columns=columns)
        segments = (_write_rows(files, dataset.name, rows, start=0),)
    layout: dict[str, Any] = {}
    if len(live) < dataset.rows:
        layout = {"layout": dataset.layout + 1, "earlier": (*dataset.record.earlier, dataset.version)}

    def build(newest: DatasetVersion | None, number: int) -> DatasetVersion:
        existing = _existing(newest, dataset.name)
        if existing.number != dataset.version:
            raise ConflictError(
                f"dataset {dataset.name} got another version meanwhile", hint="run the same command again"
            )
        return existing.successor(
            number, provenance=provenance, rows=len(live), segments=segments, overlays=(), removed=(), **layout
        )

    return rows_log(files, dataset.name).commit(build)


def _write_rows(files: Files, name: str, rows: NewRows, *, start: int) -> RowSegment:
    """Write a segment of rows that no version lists yet."""
    ids, columns = rows.checked()
    if not ids:
        raise UsageError(f"no rows to add to dataset {name}", hint="give at least one row")
    segment = f"rows-{start:010d}-{os.urandom(6).hex()}"
    writer = GroupWriter(files, segment_key(name, segment))
    write_ids(writer, ids)
    for key, column in columns.items():
        write_column(writer, key, column)
    return RowSegment(name=segment, start=start, stop=start + len(ids), digest=writer.seal())


def _existing(newest: DatasetVersion | None, name: str) -> DatasetVersion:
    if newest is None:
        raise NotFoundError(f"dataset {name} does not exist", hint="`featstore ls` lists what the store holds")
    return newest


def _same_layout(newest: DatasetVersion | None, dataset: Dataset) -> DatasetVersion:
    existing = _existing(newest, dataset.name)
    if existing.layout != dataset.layout:
        raise ConflictError(
            f"the rows of dataset {dataset.name} were renumbered meanwhile", hint="run the same command again"
        )
    return existing
