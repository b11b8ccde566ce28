"""Commits to a dataset: its first rows, more rows, more columns. Each is one new version; nothing is rewritten."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import AlignmentError, AlreadyExistsError, NotFoundError, UsageError, sample_of
from featstore.store.arrays import GroupWriter
from featstore.store.columns import Categories, to_column, write_column
from featstore.store.dataset import Dataset, NewRows, segment_key
from featstore.store.files import LocalFiles
from featstore.store.ids import write_ids
from featstore.store.log import Log
from featstore.store.names import check_name
from featstore.store.records import DatasetVersion, Overlay, RowSegment

__all__ = ["append", "create", "overlay", "rows_log"]


def rows_log(files: LocalFiles, name: str) -> Log[DatasetVersion]:
    """The versions of a dataset."""
    return Log(files, f"datasets/{name}", DatasetVersion)


def create(
    files: LocalFiles, name: str, rows: NewRows, *, root: str | None, provenance: dict[str, Any]
) -> DatasetVersion:
    """Commit the first version; see `Store.create_dataset`."""
    log = rows_log(files, name)
    taken = AlreadyExistsError(f"dataset {name} exists already", hint="choose another name, or add rows to it")
    if log.numbers():
        raise taken
    segment = _write(files, name, rows, start=0)

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


def append(files: LocalFiles, name: str, rows: NewRows, *, provenance: dict[str, Any]) -> DatasetVersion:
    """Commit more rows; see `Store.append_rows`."""
    written: dict[int, RowSegment] = {}

    def build(newest: DatasetVersion | None, number: int) -> DatasetVersion:
        existing = _existing(newest, name)
        # another writer may have added rows since the last try, so ids are checked against what is there now
        present = Dataset(files, existing).ids.rows_of(list(rows.ids))
        if (present >= 0).any():
            known = [rows.ids[i] for i in np.flatnonzero(present >= 0)[:6]]
            raise AlreadyExistsError(
                f"dataset {name} has {int((present >= 0).sum())} of these ids already: {sample_of(known)}",
                hint="append rows with new ids only",
            )
        if existing.rows not in written:
            written[existing.rows] = _write(files, name, rows, start=existing.rows)
        segment = written[existing.rows]
        return _next(existing, number, provenance, rows=segment.stop, segments=(*existing.segments, segment))

    return rows_log(files, name).commit(build)


def overlay(
    files: LocalFiles,
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
        existing = _existing(newest, dataset.name)
        return _next(existing, number, provenance, overlays=(*existing.overlays, added))

    return rows_log(files, dataset.name).commit(build)


def _write(files: LocalFiles, name: str, rows: NewRows, *, start: int) -> RowSegment:
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


def _next(newest: DatasetVersion, number: int, provenance: dict[str, Any], **changes: Any) -> DatasetVersion:
    kept = newest.model_dump(exclude={"number", "parent", "uuid", "created", "provenance", *changes})
    return DatasetVersion(**kept, number=number, parent=newest.number, provenance=provenance, **changes)
