"""Files of features as one shape: a sliceable matrix, ids, labels and further columns.

Read are `.npz`, `.npy` and `.h5`/`.hdf5`, each with an optional CSV of rows beside it. Nothing is unpickled, and an HDF5 file
cannot lead the reader to another file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import AlignmentError, BadInputError, NotFoundError, UnknownNameError, UsageError
from featstore.store import column_name

__all__ = ["KEYS", "Table", "open_table"]

KEYS = ("features", "ids", "labels")
# a CSV's header usually says it in the singular
_SINGULAR = {"ids": "id", "labels": "label"}
_RESERVED = {"id", "ids", "label", "labels"}


@dataclass
class Table:
    """Rows read from files.

    Attributes:
        features: [N, D], sliceable: an array, a memory map or an HDF5 dataset.
        ids: One a row, or None.
        labels: Class name a row (None where unlabelled), or None for no labels at all.
        columns: Further one-dimensional columns by name.
    """

    features: Any
    ids: list[str] | None = None
    labels: list[str | None] | None = None
    columns: dict[str, NDArray[Any] | list[str | None]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.features.shape[0])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Features of some rows, in any order. HDF5 wants ascending, distinct rows, so it is given these."""
        distinct, place = np.unique(rows, return_inverse=True)
        if len(distinct) and distinct[-1] - distinct[0] + 1 == len(distinct):
            block = np.asarray(self.features[int(distinct[0]) : int(distinct[-1]) + 1])
        else:
            block = np.asarray(self.features[distinct])
        return block[place]


@contextmanager
def open_table(path: Path, *, keys: Mapping[str, str] | None = None, rows_file: Path | None = None) -> Iterator[Table]:
    """Open a file of features for reading.

    Args:
        path: `.npz`, `.npy`, `.h5` or `.hdf5`.
        keys: Where `features`, `ids` and `labels` are called otherwise, e.g. {"features": "emb"}; ids and labels may name a
            column of the CSV.
        rows_file: CSV with a header and one line a row, in the order of the features.

    Raises:
        NotFoundError: a file is missing.
        UnknownNameError: the file holds nothing under a key.
        BadInputError: it holds pickled objects, another shape, links to other files, or cannot be read.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist")
    if unknown := set(keys or {}) - set(KEYS):
        raise UnknownNameError("key to rename", unknown.pop(), KEYS)
    names = {key: (keys or {}).get(key, key) for key in KEYS}
    columns = {} if rows_file is None else _read_csv(rows_file)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"cannot read features from {path.name}", hint=f"known file types: {', '.join(sorted(_READERS))}"
        )
    with reader(path, names["features"]) as (features, others):
        _check_features(features, path)
        table = Table(features=features)
        given: dict[str, Any] = {**others, **columns}
        found_ids = _pop(given, names["ids"], "ids", keys, path)
        found_labels = _pop(given, names["labels"], "labels", keys, path)
        table.ids = None if found_ids is None else [str(value) for value in _listed(found_ids)]
        table.labels = None if found_labels is None else _class_names(found_labels)
        for name, values in given.items():
            if np.ndim(values) == 1 and len(values) == table.rows:
                plain = column_name(name)
                # another array of that name was chosen as the id or label; this one stays as an ordinary column
                table.columns[f"other_{plain}" if plain in _RESERVED else plain] = values
        if rows_file is not None and any(len(column) != table.rows for column in columns.values()):
            count = len(next(iter(columns.values())))
            raise AlignmentError(
                f"{rows_file.name} has {count} rows, {path.name} has {table.rows} features",
                hint="give the CSV that was written with these features: one line a row, in the same order",
            )
        for what, part in (("ids", table.ids), ("labels", table.labels)):
            if part is not None and len(part) != table.rows:
                raise AlignmentError(f"{path.name} has {table.rows} features and {len(part)} {what}")
        yield table


@contextmanager
def _npy(path: Path, _key: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    yield features, {}


@contextmanager
def _npz(path: Path, key: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    with archive:
        try:
            arrays = {name: archive[name] for name in archive.files}
        except ValueError as error:
            raise BadInputError(
                f"{path} holds pickled objects, which featstore never loads", hint="save plain arrays with numpy.savez"
            ) from error
    yield _features_of(arrays, key, path), arrays


@contextmanager
def _hdf5(path: Path, key: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    with file:
        datasets: dict[str, Any] = {}

        def collect(name: str) -> None:
            link = file.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise BadInputError(f"'{name}' in {path} is a link to another file, which is not followed")
            item = file[name]
            if isinstance(item, h5py.Group):
                for child in item:
                    collect(f"{name}/{child}")
            elif item.is_virtual or item.external:
                raise BadInputError(f"'{name}' in {path} keeps its data in other files, which are not read")
            else:
                datasets[name] = item

        for name in file:
            collect(name)
        features = _features_of(datasets, key, path)
        others = {
            name: item.asstr()[:] if h5py.check_string_dtype(item.dtype) else item[:]
            for name, item in datasets.items()
            if item.ndim == 1
        }
        yield features, others


_READERS = {".npz": _npz, ".npy": _npy, ".h5": _hdf5, ".hdf5": _hdf5}


def _features_of(arrays: dict[str, Any], key: str, path: Path) -> Any:
    if key not in arrays:
        raise UnknownNameError(f"array in {path.name}", key, arrays, hint="rename with --key features=NAME")
    return arrays.pop(key)


def _check_features(features: Any, path: Path) -> None:
    if features.ndim != 2 or not features.shape[0] or not features.shape[1]:
        raise BadInputError(
            f"the features in {path} have shape {features.shape}", hint="they must be rows × components"
        )
    if np.dtype(features.dtype).kind not in "fiu":
        raise BadInputError(f"the features in {path} are {features.dtype}, not numbers")


def _pop(given: dict[str, Any], name: str, key: str, keys: Mapping[str, str] | None, path: Path) -> Any:
    for candidate in (name, _SINGULAR[key]) if name == key else (name,):
        if candidate in given:
            return given.pop(candidate)
    if key in (keys or {}):
        raise UnknownNameError(f"column for {key} of {path.name}", name, given)
    return None


def _listed(values: Any) -> list[Any]:
    listed: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return [value.decode() if isinstance(value, bytes) else value for value in listed]


def _class_names(values: Any) -> list[str | None]:
    """Names as text; negative numbers and empty text mean unlabelled."""
    return [
        None if value is None or value == "" or (not isinstance(value, str) and value < 0) else str(value)
        for value in _listed(values)
    ]


def _read_csv(path: Path) -> dict[str, NDArray[Any] | list[str | None]]:
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        header = next(reader, None)
        lines = list(reader)
    if not header or not lines:
        raise BadInputError(f"{path} has no rows", hint="it needs a header and one line a row")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise BadInputError(f"{path}, line {number}: {len(line)} fields instead of {len(header)}")
    return {name: _typed([line[place] for line in lines]) for place, name in enumerate(header)}


def _typed(texts: list[str]) -> NDArray[Any] | list[str | None]:
    """Integers or floats if every field is one (and writing it back gives the same text), else text with '' missing."""
    if all(text.removeprefix("-").isdigit() and str(int(text)) == text for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    try:
        if not any(text.strip().startswith("0") and text.strip().isdigit() for text in texts):
            return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        pass
    return [text or None for text in texts]
