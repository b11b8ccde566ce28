"""Exporting: a feature set as a file that other tools read, in bounded memory."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from featstore.convert.formats import format_of
from featstore.convert.rows_csv import write_rows
from featstore.convert.selection import Selection
from featstore.errors import AlreadyExistsError, IncompleteError, NotFoundError
from featstore.foreign import is_zarr
from featstore.progress import SILENT, Progress
from featstore.store import Store

__all__ = ["ExportReport", "export_features"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote: files, rows with a feature, rows left out for having none, seconds spent."""

    files: tuple[str, ...]
    rows: int
    left_out: int
    seconds: float


def export_features(
    store: Store, reference: str, path: Path, *, overwrite: bool = False, progress: Progress = SILENT
) -> ExportReport:
    """Write the valid rows of a feature set with ids, labels and columns.

    Args:
        store: Where from.
        reference: `DATASET/NAME[@version]`.
        path: A file of one of `featstore.convert.formats`. It holds `features` [N, D] in the stored dtype, `ids`, `labels` and
            every column under its name; of `.npy` and `.safetensors`, which have no place for text, these are a CSV of the same
            name. Text that is missing (unlabelled rows) is '', in parquet null.
        overwrite: Replace what is there.
        progress: Listener.

    Raises:
        UsageError: another file type.
        AlreadyExistsError: the file is there and `overwrite` was not asked for, or is a folder of other things.
        IncompleteError: no row has a feature.
        MissingExtraError: the file type needs a package that is not installed.
    """
    format_ = format_of(path)
    targets = [path, path.with_suffix(".csv")] if format_.rows_beside else [path]
    for target in targets:
        if target.exists() and not overwrite:
            raise AlreadyExistsError(f"{target} exists", hint="choose another file, or say --overwrite")
        if target.is_dir() and not is_zarr(target):
            raise AlreadyExistsError(f"{target} is a folder of other things", hint="choose another name")
    if not path.absolute().parent.is_dir():
        raise NotFoundError(f"the folder {path.absolute().parent} does not exist", hint="make it first")
    began = time.monotonic()
    features = store.features(reference)
    chosen = Selection.of(features, progress)
    rows = chosen.shape[0]
    if not rows:
        raise IncompleteError(
            f"no row of {features.ref} has a feature", hint=f"`featstore show {features.name}` lists why"
        )
    progress.start(f"exporting {features.ref}", rows, "rows")
    # everything is written in a folder beside the target and moved when it is whole
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        format_.write(part / path.name, chosen)
        if format_.rows_beside:
            write_rows(part / targets[1].name, chosen)
        for target in targets:
            if target.is_dir():
                target.rename(part / "replaced")
            (part / target.name).replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ExportReport(
        files=tuple(map(str, targets)),
        rows=rows,
        left_out=features.rows - rows,
        seconds=time.monotonic() - began,
    )
