"""Exporting: a feature set as one file that any numpy or HDF5 user reads, in bounded memory."""

from __future__ import annotations

import csv
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import AlreadyExistsError, UsageError
from featstore.progress import SILENT, Progress
from featstore.store import Categories, Column, FeatureSet, Store

__all__ = ["ExportReport", "export_features"]

_BLOCK = 8192


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
        path: `.npz` (arrays features, ids, labels and the columns), `.npy` (features; the rest in a CSV of the same name) or
            `.h5` (contiguous datasets of the same names). Text is stored as fixed-width Unicode (npz) or UTF-8 (h5); unlabelled
            is ''.
        overwrite: Replace a file that is there.
        progress: Listener.

    Raises:
        UsageError: another file type.
        AlreadyExistsError: the file is there and `overwrite` was not asked for.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise UsageError(
            f"cannot write features to {path.name}", hint=f"known file types: {', '.join(sorted(_WRITERS))}"
        )
    if path.exists() and not overwrite:
        raise AlreadyExistsError(f"{path} exists", hint="choose another file, or say --overwrite")
    began = time.monotonic()
    features = store.features(reference)
    rows = features.valid_rows()
    columns: dict[str, Column] = {
        name: _taken(features.dataset.column(name), rows) for name in features.dataset.column_names
    }
    if "label" in columns:
        columns = {"labels": columns.pop("label"), **columns}
    progress.start(f"exporting {features.ref}", len(rows), "rows")
    temporary = path.with_name(f".{path.name}.part")
    try:
        extra = writer(temporary, path, features, rows, columns, progress)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return ExportReport((str(path), *extra), len(rows), features.rows - len(rows), time.monotonic() - began)


def _blocks(features: FeatureSet, rows: NDArray[np.int64], progress: Progress) -> Iterator[NDArray[Any]]:
    for start in range(0, len(rows), _BLOCK):
        block = features.gather(rows[start : start + _BLOCK])
        yield block
        progress.advance(len(block))


def _npy_stream(stream: IO[bytes], features: FeatureSet, rows: NDArray[np.int64], progress: Progress) -> None:
    header = {
        "descr": features.dtype.newbyteorder("<").str,
        "fortran_order": False,
        "shape": (len(rows), features.width),
    }
    np.lib.format.write_array_header_1_0(stream, header)
    for block in _blocks(features, rows, progress):
        stream.write(block.tobytes())


def _write_npz(
    file: Path,
    _path: Path,
    features: FeatureSet,
    rows: NDArray[np.int64],
    columns: dict[str, Column],
    progress: Progress,
) -> tuple[str, ...]:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as stream:
            _npy_stream(stream, features, rows, progress)
        arrays = {
            "ids": np.array(features.dataset.ids.take(rows)),
            **{name: _plain(part) for name, part in columns.items()},
        }
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, values, allow_pickle=False)
    return ()


def _write_npy(
    file: Path,
    path: Path,
    features: FeatureSet,
    rows: NDArray[np.int64],
    columns: dict[str, Column],
    progress: Progress,
) -> tuple[str, ...]:
    with file.open("wb") as stream:
        _npy_stream(stream, features, rows, progress)
    table = path.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["ids", *columns])
        values = [_plain(part).tolist() for part in columns.values()]
        writer.writerows(zip(features.dataset.ids.take(rows), *values, strict=True))
    return (str(table),)


def _write_hdf5(
    file: Path,
    _path: Path,
    features: FeatureSet,
    rows: NDArray[np.int64],
    columns: dict[str, Column],
    progress: Progress,
) -> tuple[str, ...]:
    import h5py

    with h5py.File(file, "w") as out:
        matrix = out.create_dataset("features", shape=(len(rows), features.width), dtype=features.dtype)
        position = 0
        for block in _blocks(features, rows, progress):
            matrix[position : position + len(block)] = block
            position += len(block)
        text = h5py.string_dtype()
        out.create_dataset("ids", data=features.dataset.ids.take(rows), dtype=text)
        for name, part in columns.items():
            values = _plain(part)
            out.create_dataset(
                name,
                data=values.tolist() if values.dtype.kind == "U" else values,
                dtype=text if values.dtype.kind == "U" else None,
            )
    return ()


_Writer = Callable[[Path, Path, FeatureSet, NDArray[np.int64], dict[str, Column], Progress], tuple[str, ...]]
_WRITERS: dict[str, _Writer] = {".npz": _write_npz, ".npy": _write_npy, ".h5": _write_hdf5, ".hdf5": _write_hdf5}


def _taken(column: Column, rows: NDArray[np.int64]) -> Column:
    return column[rows]


def _plain(column: Column) -> NDArray[Any]:
    return np.array([text or "" for text in column.texts()]) if isinstance(column, Categories) else column
