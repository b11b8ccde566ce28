"""`.h5`: datasets of any layout, read by hyperslabs. Data that lies in other files is refused, and holes are not invented."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from featstore.convert.formats.base import Format, RawColumn, Source, check_matrix, find, plain_column
from featstore.convert.formats.chunked import chunked
from featstore.convert.selection import Selection
from featstore.errors import BadInputError
from featstore.foreign import reading

__all__ = ["HDF5"]

_TEXT_ROWS = 8192
_MAX_LINKS = 16


@contextmanager
def _read(path: Path, key: str) -> Iterator[Source]:
    import h5py

    with ExitStack() as stack:
        with reading(path):
            file = stack.enter_context(h5py.File(path, "r", locking=False))
            item = _follow(file, key, path)
            if not isinstance(item, h5py.Dataset):
                names: list[str] = []
                file.visititems(lambda name, found: names.append(name) if isinstance(found, h5py.Dataset) else None)
                find([name for name in names if name != key], key, path)
            check_matrix(item.shape or (), item.dtype, path)
            _check_stored(item, path)
            columns, left_out = _beside(item, path)
        matrix = stack.enter_context(chunked(item, item.chunks, path))
        yield Source(matrix, columns, left_out, elsewhere=lambda name: _elsewhere(file, name, path))


def _follow(start: Any, name: str, path: Path, hops: int = 0) -> Any:
    """The object at a path, None if there is none. Links inside the file are followed, to other files never."""
    import h5py

    node = start.file if name.startswith("/") else start
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if not isinstance(node, h5py.Group):
            return None
        link = node.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise BadInputError(
                f"'{name}' in {path} is a link to another file ({link.filename}), which is not followed",
                hint="import that file itself, or copy the dataset with h5copy",
            )
        if isinstance(link, h5py.SoftLink):
            if hops >= _MAX_LINKS:
                raise BadInputError(f"'{name}' in {path} is a chain of links without an end", hint="name the dataset")
            node = _follow(node, link.path, path, hops + 1)
        else:
            node = None if link is None else node[part]
    return node


def _check_stored(item: Any, path: Path) -> None:
    """Refuse a dataset whose values are not all in this file: HDF5 would read fill values without a word."""
    name = item.name.lstrip("/")
    if item.is_virtual or item.external:
        raise BadInputError(
            f"'{name}' in {path} keeps its data in other files, which are not read",
            hint="copy it into one file with h5repack, or import those files",
        )
    if not item.size:
        return
    if item.chunks is None:
        whole = item.id.get_storage_size() >= item.size * item.dtype.itemsize
    else:
        grid = [-(-length // chunk) for length, chunk in zip(item.shape, item.chunks, strict=True)]
        whole = item.id.get_num_chunks() == np.prod(grid, dtype=object)
    if not whole:
        raise BadInputError(
            f"'{name}' in {path} has rows that were never written", hint="the program that wrote it did not finish"
        )


def _beside(features: Any, path: Path) -> tuple[dict[str, Callable[[], RawColumn]], dict[str, str]]:
    """The one-dimensional datasets in the group of the features, and why the others are no columns."""
    import h5py

    columns: dict[str, Callable[[], RawColumn]] = {}
    left_out: dict[str, str] = {}
    group = features.parent
    for name in group:
        try:
            item = _follow(group, name, path)
        except BadInputError:
            left_out[name] = "it is a link to another file, or to itself"
            continue
        if isinstance(item, h5py.Dataset) and item != features:
            if item.ndim == 1:
                columns[name] = partial(_column, item, path)
            else:
                left_out[name] = f"its shape is {item.shape}"
    return columns, left_out


def _elsewhere(file: Any, name: str, path: Path) -> RawColumn | None:
    import h5py

    with reading(path):
        item = _follow(file, name, path)
    return _column(item, path) if isinstance(item, h5py.Dataset) and item.ndim == 1 else None


def _column(item: Any, path: Path) -> RawColumn:
    import h5py

    with reading(path):
        _check_stored(item, path)
        name = item.name.lstrip("/")
        if h5py.check_string_dtype(item.dtype) is None:
            return plain_column(item[:] if item.dtype.kind in "biuf" else np.empty(0, item.dtype), name, path)
        texts: list[str | None] = []
        for start in range(0, len(item), _TEXT_ROWS):
            texts += plain_column(item[start : start + _TEXT_ROWS], name, path)
        return texts


def _write(path: Path, chosen: Selection) -> None:
    import h5py

    with h5py.File(path, "w") as out:
        matrix = out.create_dataset("features", shape=chosen.shape, dtype=chosen.dtype)
        position = 0
        for block in chosen.blocks():
            matrix[position : position + len(block)] = block
            position += len(block)
        for name, values in chosen.numbers.items():
            out.create_dataset(name, data=values)
        for name in chosen.text_names:
            column = out.create_dataset(name, shape=chosen.shape[:1], dtype=h5py.string_dtype())
            texts, position = chosen.written(name), 0
            while part := list(islice(texts, _TEXT_ROWS)):
                column[position : position + len(part)] = part
                position += len(part)


HDF5 = Format(_read, _write)
