"""`.zarr`: a plain Zarr group or array (v2 or v3). Only codecs and types from a list are decoded; no chunk may be missing.

https://zarr-specs.readthedocs.io
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from featstore.convert.formats.base import Format, RawColumn, Source, check_matrix, find, plain_column
from featstore.convert.formats.chunked import chunked
from featstore.convert.matrix import BLOCK_BYTES, block_rows
from featstore.convert.selection import Selection
from featstore.foreign import describe_zarr, reading, zarr_arrays

__all__ = ["ZARR"]

_TEXT_ROWS = 65536


@contextmanager
def _read(path: Path, key: str) -> Iterator[Source]:
    arrays = zarr_arrays(path)
    if path in arrays:
        folder = path
    else:
        names = {folder.relative_to(path).as_posix(): folder for folder in arrays}
        folder = names[find(names, key.strip("/"), path)]
    with ExitStack() as stack:
        with reading(folder):
            described = describe_zarr(folder)
            features = described.open()
        check_matrix(features.shape, np.dtype(features.dtype), folder)
        described.check_stored()
        columns: dict[str, Callable[[], RawColumn]] = {}
        left_out: dict[str, str] = {}
        for other in arrays:
            if other.parent == folder.parent and other != folder:
                with reading(other):
                    shape = describe_zarr(other).shape
                if len(shape) == 1:
                    columns[other.name] = partial(_column, other)
                else:
                    left_out[other.name] = f"its shape is {shape}"
        matrix = stack.enter_context(chunked(features, features.chunks, folder))

        def elsewhere(name: str) -> RawColumn | None:
            wanted = path / name.strip("/")
            return _column(wanted) if wanted in arrays else None

        yield Source(matrix, columns, left_out, elsewhere)


def _column(folder: Path) -> RawColumn:
    with reading(folder):
        array = describe_zarr(folder).open()
        if array.ndim != 1:
            raise ValueError(f"its shape is {array.shape}")
        if array.dtype.kind in "biuf":
            return plain_column(np.asarray(array[:]), folder.name, folder)
        texts: list[str | None] = []
        for start in range(0, array.shape[0], _TEXT_ROWS):
            texts += plain_column(np.asarray(array[start : start + _TEXT_ROWS]), folder.name, folder)
        return texts


def _write(path: Path, chosen: Selection) -> None:
    import zarr
    from zarr.codecs import Crc32cCodec

    rows, width = chosen.shape
    chunk = min(rows, block_rows(width * chosen.dtype.itemsize))
    with zarr.config.set({"array.write_empty_chunks": True}):
        root = zarr.create_group(path)
        matrix = root.create_array(
            "features",
            shape=chosen.shape,
            dtype=chosen.features.dtype,
            chunks=(chunk, width),
            compressors=[Crc32cCodec()],
            fill_value=float("nan"),
        )
        at = 0
        for block in chosen.blocks():  # one chunk each
            matrix[at : at + len(block)] = block
            at += len(block)
        for name, values in chosen.numbers.items():
            root.create_array(name, data=values, chunks=(min(rows, BLOCK_BYTES // 8),), compressors=[Crc32cCodec()])
        for name in chosen.text_names:
            column = root.create_array(name, shape=(rows,), dtype="string", chunks=(min(rows, _TEXT_ROWS),))
            for start in range(0, rows, _TEXT_ROWS):
                part = list(chosen.written(name, start, start + _TEXT_ROWS))
                column[start : start + len(part)] = np.array(part, dtype=np.dtypes.StringDType())


ZARR = Format(_read, _write)
