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
    columns: dict[str, Column] = {name: features.dataset.column(name)[rows] for name in features.dataset.column_names}
    if "label" in columns:
        columns = {"labels": columns.pop("label"), **columns}
    progress.start(f"exporting {features.ref}", len(rows), "rows")
    temporary = path.with_name(f".{path.name}.part")
    try:
        extra = writer(temporary, path, _Selection(features, rows, columns, progress))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return ExportReport((str(path), *extra), len(rows), features.rows - len(rows), time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class _Selection:
    """What is written: some rows of a feature set with their columns."""

    features: FeatureSet
    rows: NDArray[np.int64]
    columns: dict[str, Column]
    progress: Progress

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The features, block by block."""
        for start in range(0, len(self.rows), _BLOCK):
            block = self.features.gather(self.rows[start : start + _BLOCK])
            yield block
            self.progress.advance(len(block))

    def ids(self) -> list[str]:
        """Ids of the rows."""
        return self.features.dataset.ids.take(self.rows)

    def write_npy(self, stream: IO[bytes]) -> None:
        """The features as the bytes of a `.npy` file."""
        shape = (len(self.rows), self.features.width)
        header = {"descr": self.features.dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in self.blocks():
            stream.write(block.tobytes())


def _write_npz(file: Path, _path: Path, chosen: _Selection) -> tuple[str, ...]:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as stream:
            chosen.write_npy(stream)
        arrays = {"ids": np.array(chosen.ids()), **{name: _plain(part) for name, part in chosen.columns.items()}}
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, values, allow_pickle=False)
    return ()


def _write_npy(file: Path, path: Path, chosen: _Selection) -> tuple[str, ...]:
    with file.open("wb") as stream:
        chosen.write_npy(stream)
    table = path.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["ids", *chosen.columns])
        writer.writerows(zip(chosen.ids(), *[_plain(part).tolist() for part in chosen.columns.values()], strict=True))
    return (str(table),)


def _write_hdf5(file: Path, _path: Path, chosen: _Selection) -> tuple[str, ...]:
    import h5py

    with h5py.File(file, "w") as out:
        shape = (len(chosen.rows), chosen.features.width)
        matrix = out.create_dataset("features", shape=shape, dtype=chosen.features.dtype)
        position = 0
        for block in chosen.blocks():
            matrix[position : position + len(block)] = block
            position += len(block)
        text = h5py.string_dtype()
        out.create_dataset("ids", data=chosen.ids(), dtype=text)
        for name, part in chosen.columns.items():
            values = _plain(part)
            if values.dtype.kind == "U":
                out.create_dataset(name, data=values.tolist(), dtype=text)
            else:
                out.create_dataset(name, data=values)
    return ()


_WRITERS: dict[str, Callable[[Path, Path, _Selection], tuple[str, ...]]] = {
    ".npz": _write_npz,
    ".npy": _write_npy,
    ".h5": _write_hdf5,
    ".hdf5": _write_hdf5,
}


def _plain(column: Column) -> NDArray[Any]:
    return np.array([text or "" for text in column.texts()]) if isinstance(column, Categories) else column
