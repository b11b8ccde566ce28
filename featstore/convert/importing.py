"""Importing: features made elsewhere become a feature set, of a new dataset or of one that is there.

    open ──▶ join rows ──▶ check every row ──▶ (make the dataset) ──▶ fill shard by shard ──▶ commit

Nothing is written before every row was checked. An import that was interrupted goes on with the same command.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.convert.checks import Duplicates, check_rows, first_rows
from featstore.convert.formats import RawColumn
from featstore.convert.joining import check_labels, join
from featstore.convert.matrix import Addressable, Cursor, Mapped, Matrix, spooled
from featstore.convert.tables import Table, open_table
from featstore.errors import AlreadyExistsError, NonFiniteError, UsageError
from featstore.progress import SILENT, Progress
from featstore.spaces import Space, require_same
from featstore.store import (
    Dataset,
    FeatureJob,
    FeatureSet,
    NewRows,
    RowStatus,
    Store,
    ZeroRows,
    parse_set,
    plan_shard_rows,
    publisher,
)

__all__ = ["ImportReport", "import_features"]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        set: `DATASET/NAME@version`.
        rows: Rows that have a feature.
        absent: Rows of the dataset the file says nothing about.
        merged: Rows of the file that were left out because an earlier one has the same id.
        width: Components of a row.
        dtype: Stored dtype.
        created: Whether the dataset is new.
        cached: Whether the same file had been imported before, so that nothing was done.
        seconds: Time spent.
    """

    set: str
    rows: int
    absent: int
    merged: int
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
    duplicates: Duplicates = "error",
    zero_rows: ZeroRows = "error",
    progress: Progress = SILENT,
) -> ImportReport:
    """Import a file of features as a feature set, in bounded memory (ids, labels and columns are held, features never).

    Args:
        store: Where to.
        path: The file; see `featstore.convert.formats` for what is read.
        as_: `DATASET/NAME`. A new dataset takes ids (or numbers), labels and columns from the file; for one that is there, the
            file's rows join by id. Of a set whose dataset has grown since, the rows that it lacks are added.
        space: Name of the vectors' space. Sets imported under one name are comparable. Default: `DATASET/NAME`.
        keys: Other names of `features`, `ids` and `labels` in the file.
        rows_file: CSV of rows beside the features.
        root: Folder that the ids of a new dataset are relative to.
        dtype: float16, float32 or float64; default is the narrowest that loses nothing, found by a scan (bfloat16 is stored as
            float32).
        by_position: Join an existing dataset by row number although the file has no ids.
        duplicates: What to do with an id that stands there again: `error`, `same` (merge rows with equal features and labels,
            refuse others) or `first` (keep the first row of each id).
        zero_rows: Whether rows of zeros are an `error` or kept (`keep`; side-information may have them).
        progress: Listener.

    Raises:
        AlignmentError: ids that the dataset does not have, labels that contradict it, or no ids to join by.
        AlreadyExistsError: the set exists and was made from something else.
        BadInputError: a file that cannot be read, repeated ids, rows of zeros.
        NonFiniteError: rows with NaN or infinity, or that `dtype` (of a set that they are added to, its type) cannot hold.
        SpaceMismatchError: the set exists in another space.
    """
    began = time.monotonic()
    ref = parse_set(as_)
    if ref.version is not None:
        raise UsageError(f"'{as_}' names a version", hint=f"write --as {ref.key}; versions are numbered by the store")
    recipe = _recipe(path, rows_file, keys, dtype, by_position=by_position)
    made = store.features(ref.key) if store.has_features(ref.key) else None
    if made is not None and _is_there(store, made, recipe, space or ref.key):
        return _report(made, merged=0, created=False, cached=True, began=began)

    with ExitStack() as stack:
        table = stack.enter_context(open_table(path, keys=keys, rows_file=rows_file))
        dataset = store.dataset(ref.dataset) if store.has_dataset(ref.dataset) else None
        # rows without ids were numbered by this very import, when it was interrupted after it had made the dataset
        numbered = dataset is not None and table.ids is None and _made_by(store, dataset, recipe)
        positional = dataset is not None and (by_position or numbered)
        first = None if table.ids is None or positional else first_rows(table.ids)
        joined = join(dataset, table, first, by_position=positional)
        if made is not None:
            joined.check_beyond(made)
        chosen = check_rows(
            table.matrix,
            first,
            partial(_ids_of, dataset if positional else None, table),
            dtype=np.dtype(dtype) if dtype else None,
            duplicates=duplicates,
            zero_rows=zero_rows,
            progress=progress,
        )
        if made is not None:
            _check_fits(made, chosen)
        check_labels(dataset, table, joined, first if duplicates == "same" else None)
        _note_left_out(table, progress, new=dataset is None)
        created = dataset is None
        if dataset is None:
            provenance = {"import": path.name, **recipe}
            dataset = store.create_dataset(
                ref.dataset, _new_rows(table, joined.kept), root=_absolute(root), provenance=provenance
            )
        vectors = Space.named(space or ref.key, table.matrix.shape[1])
        job = store.plan_features(
            dataset,
            ref.name,
            vectors,
            chosen,
            shard_rows=plan_shard_rows(dataset.rows, vectors.width * chosen.itemsize),
            source=json.dumps(recipe, sort_keys=True),
        )
        if job is not None:
            job.tell_of_others(progress)
            _fill(job, table.matrix, joined.source[job.start : job.stop], progress)
            job.commit({"import": path.name, **recipe})
    merged = table.rows - len(joined.kept)
    return _report(store.features(ref.key), merged=merged, created=created, cached=False, began=began)


def _report(made: FeatureSet, *, merged: int, created: bool, cached: bool, began: float) -> ImportReport:
    valid = len(made.valid_rows())
    return ImportReport(
        set=made.ref,
        rows=valid,
        absent=made.rows - valid,
        merged=merged,
        width=made.width,
        dtype=made.dtype.name,
        created=created,
        cached=cached,
        seconds=time.monotonic() - began,
    )


def _recipe(
    path: Path, rows_file: Path | None, keys: Mapping[str, str] | None, dtype: str | None, *, by_position: bool
) -> dict[str, Any]:
    """All that decides what an import makes, as JSON."""
    return {
        "file": _digest(path),
        "rows_file": None if rows_file is None else _digest(rows_file),
        "keys": dict(keys or {}),
        "dtype": dtype,
        "by_position": by_position,
    }


def _digest(path: Path) -> str:
    """blake3 of a file; of a folder, over the names and digests of all files in it. Empty for what is not there."""
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "\n".join(f"{file.relative_to(path).as_posix()} {_digest(file)}" for file in inside)
        return blake3(listing.encode()).hexdigest()
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest() if path.is_file() else ""


def _is_there(store: Store, made: FeatureSet, recipe: Mapping[str, Any], space: str) -> bool:
    """Whether a version of the set was made by the same import.

    Raises:
        AlreadyExistsError: it was made from something else, and has no rows to add.
        SpaceMismatchError: it lies in another space.
    """
    expected = Space.named(space, made.width)
    hint = "write to another name, or use the --space that this set was made with"
    require_same(made.space, expected, what=f"{made.name} exists", hint=hint)
    if any(_same(version.provenance, recipe) for version in store.history(made.name)):
        return True
    if made.rows >= made.dataset.rows:
        raise AlreadyExistsError(
            f"{made.name} exists and was made from something else than this file", hint="import under another name"
        )
    return False


def _check_fits(made: FeatureSet, chosen: np.dtype[Any]) -> None:
    """Refuse to round rows that are added to a set unless asked to."""
    if chosen.itemsize > made.dtype.itemsize:
        raise NonFiniteError(
            f"the rows need {chosen.name} to be exact, and {made.name} is stored as {made.dtype.name}",
            hint=f"--dtype {made.dtype.name} rounds them; or import under another name",
        )


def _made_by(store: Store, dataset: Dataset, recipe: Mapping[str, Any]) -> bool:
    return _same(store.history(dataset.name)[-1].provenance, recipe)


def _same(provenance: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    return all(provenance.get(key, "") == value for key, value in recipe.items())


def _ids_of(dataset: Dataset | None, table: Table, rows: Sequence[int]) -> list[str]:
    """What rows of the file are called in messages."""
    if dataset is not None:
        return dataset.ids.take(rows)
    return [f"row {row}" if table.ids is None else table.ids[row] for row in rows]


def _new_rows(table: Table, kept: NDArray[np.int64]) -> NewRows:
    chosen = kept.tolist()

    def of(values: RawColumn) -> RawColumn:
        return values[kept] if isinstance(values, np.ndarray) else [values[row] for row in chosen]

    return NewRows(
        ids=[str(row) if table.ids is None else table.ids[row] for row in chosen],
        labels=None if table.labels is None else [table.labels[row] for row in chosen],
        columns={name: of(values) for name, values in table.columns().items()},
    )


def _absolute(root: str | None) -> str | None:
    return None if root is None else str(Path(root).absolute())


def _note_left_out(table: Table, progress: Progress, *, new: bool) -> None:
    for name, reason in table.left_out.items():
        progress.note(f"'{name}' is not imported: {reason}")
    if not new and table.column_names:
        progress.note(f"the dataset keeps its own columns; not imported: {', '.join(table.column_names)}")


def _fill(job: FeatureJob, matrix: Matrix, source: NDArray[np.int64], progress: Progress) -> None:
    """Publish every pending shard from the rows of the file that belong there."""
    pending = job.pending()
    ranges = [job.shard_range(shard) for shard in pending]
    done = len(source) - sum(stop - start for start, stop in ranges)
    progress.start(f"importing {job.name}", len(source), "rows", done=done)
    with _in_order_of(matrix, source) as reader, publisher(job, progress) as publish:
        for shard, (start, stop) in zip(pending, ranges, strict=True):
            wanted = source[start - job.start : stop - job.start]
            there = wanted >= 0
            features = reader.take(wanted[there])
            if not there.all():
                taken, features = features, np.full((stop - start, job.width), np.nan, dtype=job.dtype)
                features[there] = taken
            status = np.where(there, RowStatus.VALID, RowStatus.ABSENT).astype(np.uint8)
            publish(shard, features, status=status)


@contextmanager
def _in_order_of(matrix: Matrix, source: NDArray[np.int64]) -> Iterator[Addressable]:
    """The rows of a matrix as they will be asked for, at the least cost."""
    there = source[source >= 0]
    if isinstance(matrix, Mapped):
        yield matrix
    elif (np.diff(there) > 0).all():
        yield Cursor(matrix)
    else:
        with spooled(matrix) as copy:
            yield copy
