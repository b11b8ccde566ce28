"""Importing: features made elsewhere become a feature set, of a new dataset or of one that is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.convert.tables import Table, open_table
from featstore.errors import AlignmentError, AlreadyExistsError, UsageError, sample_of
from featstore.progress import SILENT, Progress
from featstore.spaces import Space
from featstore.store import Dataset, NewRows, RowStatus, Store, parse_set, plan_shard_rows

__all__ = ["ImportReport", "import_features"]

_SCAN_ROWS = 16384


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        set: `DATASET/NAME@version`.
        rows: Rows that have a feature.
        absent: Rows of the dataset the file says nothing about.
        width: Components of a row.
        dtype: Stored dtype.
        created: Whether the dataset is new.
        cached: Whether the same file had been imported before, so that nothing was done.
        seconds: Time spent.
    """

    set: str
    rows: int
    absent: int
    width: int
    dtype: str
    created: bool
    cached: bool
    seconds: float


def import_features(
    store: Store,
    path: Path,
    as_: str,
    *,
    space: str | None = None,
    keys: Mapping[str, str] | None = None,
    rows_file: Path | None = None,
    root: str | None = None,
    dtype: str | None = None,
    by_position: bool = False,
    progress: Progress = SILENT,
) -> ImportReport:
    """Import a file of features as a feature set.

    Args:
        store: Where to.
        path: The file; see `open_table` for what is read.
        as_: `DATASET/NAME`. A new dataset takes ids (or numbers), labels and columns from the file; for one that is there, the
            file's rows join by id.
        space: Name of the vectors' space. Sets imported under one name are comparable. Default: `DATASET/NAME`.
        keys: Other names of `features`, `ids` and `labels` in the file.
        rows_file: CSV of rows beside the features.
        root: Folder that the ids of a new dataset are relative to.
        dtype: float16, float32 or float64; default is the narrowest that loses nothing, found by a scan.
        by_position: Join an existing dataset by row number although the file has no ids.
        progress: Listener.

    Raises:
        AlignmentError: ids that the dataset does not have, labels that contradict it, or no ids to join by.
        AlreadyExistsError: the set exists and was made from something else.
        NonFiniteError: rows with NaN or infinity, or that `dtype` cannot hold.
    """
    began = time.monotonic()
    ref = parse_set(as_)
    if ref.version is not None:
        raise UsageError(f"'{as_}' names a version", hint=f"write --as {ref.key}; versions are numbered by the store")
    digest = blake3().update_mmap(path).hexdigest() if path.is_file() else ""
    with open_table(path, keys=keys, rows_file=rows_file) as table:
        created = not store.has_dataset(ref.dataset)
        if created:
            dataset = _create(store, ref.dataset, table, path, root)
            source = np.arange(table.rows, dtype=np.int64)
        else:
            dataset = store.dataset(ref.dataset)
            source = _join(dataset, table, by_position=by_position)
        width = int(table.features.shape[1])
        vectors = Space.named(space or ref.key, width)
        if store.has_features(ref.key):
            _check_same_file(store, ref.key, digest)
        chosen = np.dtype(dtype) if dtype else _narrowest(table, progress)
        job = store.plan_features(
            dataset,
            ref.name,
            vectors,
            chosen,
            shard_rows=plan_shard_rows(dataset.rows, width * chosen.itemsize),
            source=digest,
        )
        if job is not None:
            pending = job.pending()
            left = sum(stop - start for start, stop in map(job.shard_range, pending))
            progress.start(f"importing {ref.key}", dataset.rows, "rows", done=dataset.rows - left)
            for shard in pending:
                start, stop = job.shard_range(shard)
                features, status = _rows(table, source[start:stop], width)
                job.publish(shard, features, status=status)
                progress.advance(stop - start)
            job.commit({"import": path.name, "file": digest, "keys": dict(keys or {})})
    made = store.features(ref.key)
    valid = len(made.valid_rows())
    return ImportReport(
        set=made.ref,
        rows=valid,
        absent=made.rows - valid,
        width=width,
        dtype=made.dtype.name,
        created=created,
        cached=job is None,
        seconds=time.monotonic() - began,
    )


def _create(store: Store, name: str, table: Table, path: Path, root: str | None) -> Dataset:
    ids = table.ids if table.ids is not None else [str(number) for number in range(table.rows)]
    rows = NewRows(ids=ids, labels=table.labels, columns=table.columns)
    return store.create_dataset(
        name, rows, root=None if root is None else str(Path(root).absolute()), provenance={"import": path.name}
    )


def _join(dataset: Dataset, table: Table, *, by_position: bool) -> NDArray[np.int64]:
    """Source row of each dataset row, −1 where the file has none."""
    if table.ids is None or by_position:
        if not by_position:
            raise AlignmentError(
                f"the file has no ids to join dataset {dataset.name} by",
                hint="name them with --key ids=NAME or --rows FILE.csv, or say --by-position if the order is the same",
            )
        if table.rows != dataset.rows:
            raise AlignmentError(f"the file has {table.rows} rows, dataset {dataset.name} has {dataset.rows}")
        rows = np.arange(table.rows)
    else:
        rows = dataset.ids.rows_of(table.ids)
        unknown = [table.ids[n] for n in np.flatnonzero(rows < 0)[:6]]
        if unknown:
            raise AlignmentError(
                f"{int((rows < 0).sum())} ids of the file are not in dataset {dataset.name}: {sample_of(unknown)}",
                hint=f"`featstore show {dataset.name}` shows what its ids look like; or import as a new dataset",
            )
        if len(np.unique(rows)) != len(rows):
            raise AlignmentError("the file has ids that stand there twice", hint="keep one row for each id")
    _check_labels(dataset, table, rows)
    source = np.full(dataset.rows, -1, dtype=np.int64)
    source[rows] = np.arange(len(rows))
    return source


def _check_labels(dataset: Dataset, table: Table, rows: NDArray[np.int64]) -> None:
    if table.labels is None:
        return
    known = dataset.labels[rows].texts()
    differ = [
        n
        for n, (ours, theirs) in enumerate(zip(known, table.labels, strict=True))
        if ours and theirs and ours != theirs
    ]
    if differ:
        first = differ[0]
        raise AlignmentError(
            f"{len(differ)} rows have another label in the file than in dataset {dataset.name}; "
            f"the first is row {first}: '{table.labels[first]}' and '{known[first]}'",
            hint="check that ids or positions mean the same images; leave labels out to keep the dataset's",
        )


def _check_same_file(store: Store, name: str, digest: str) -> None:
    made_from = store.features(name).record.provenance.get("file")
    if made_from != digest:
        raise AlreadyExistsError(
            f"{name} exists and was made from something else than this file", hint="import under another name"
        )


def _rows(table: Table, source: NDArray[np.int64], width: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    there = source >= 0
    taken = table.take(source[there]) if there.any() else np.zeros((0, width), dtype=np.float32)
    kind = taken.dtype if taken.dtype.kind == "f" else np.dtype(np.float64)
    features = np.full((len(source), width), np.nan, dtype=kind)
    features[there] = taken
    return features, np.where(there, RowStatus.VALID, RowStatus.ABSENT).astype(np.uint8)


def _narrowest(table: Table, progress: Progress) -> np.dtype[Any]:
    """The narrowest floating type that holds every finite value exactly."""
    candidates = [np.dtype(name) for name in ("float16", "float32", "float64")]
    own = np.dtype(table.features.dtype)
    if own.kind == "f" and own.itemsize == 2:
        return candidates[0]
    progress.start("looking for the narrowest lossless type", table.rows, "rows")
    for start in range(0, table.rows, _SCAN_ROWS):
        block = np.asarray(table.features[start : start + _SCAN_ROWS])
        block = block[np.isfinite(block).all(axis=1)] if own.kind == "f" else block.astype(np.float64)
        with np.errstate(over="ignore"):
            while len(candidates) > 1 and not np.array_equal(block.astype(candidates[0]).astype(block.dtype), block):
                candidates.pop(0)
        progress.advance(min(_SCAN_ROWS, table.rows - start))
    return candidates[0]
