"""Matrices in chunks of any shape (HDF5, Zarr): read by hyperslabs that touch each chunk once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.convert.matrix import BLOCK_BYTES, Mapped, Matrix, block_rows, spool_file
from featstore.errors import BadInputError
from featstore.foreign import reading

__all__ = ["chunked"]

# a chunk is decompressed whole, whoever reads it
_MAX_CHUNK_BYTES = 1 << 30
_MAX_BAND_BYTES = 16 * BLOCK_BYTES


class _Bands:
    """Row bands as high as the chunks, or several of them; see `Matrix`."""

    def __init__(self, array: Any, band: int, path: Path) -> None:
        self._array = array
        self._path = path
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.narrowest: np.dtype[Any] = np.dtype(np.float16)
        self._step = max(1, block_rows(self.shape[1] * self.dtype.itemsize) // band) * band

    def blocks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """See `Matrix`."""
        position = start
        while position < self.shape[0]:
            # up to the next whole band, so that no chunk is decompressed twice
            stop = min(self.shape[0], position - position % self._step + self._step)
            with reading(self._path):
                block = np.asarray(self._array[position:stop])
            yield block
            position = stop


@contextmanager
def chunked(array: Any, chunks: tuple[int, int] | None, path: Path) -> Iterator[Matrix]:
    """Rows of something that has a shape, a dtype and hyperslabs.

    Args:
        array: An HDF5 dataset or a Zarr array, [N, D].
        chunks: Shape of its chunks; None where any hyperslab is read as it is.
        path: The file, for messages.

    Raises:
        BadInputError: a single chunk is too large for bounded memory.
    """
    rows, width = array.shape
    itemsize = np.dtype(array.dtype).itemsize
    band, across = (1, width) if chunks is None else (min(chunks[0], rows), min(chunks[1], width))
    if band * across * itemsize > _MAX_CHUNK_BYTES:
        raise BadInputError(
            f"the features in {path} are in chunks of {band:,} × {across:,}, too large to be read in bounded memory",
            hint="store them in chunks of a few megabytes, each of whole rows",
        )
    if band * width * itemsize <= _MAX_BAND_BYTES:
        yield _Bands(array, band, path)
        return
    # chunks so tall that a band of them is large: each is put in its place on disk, once
    with spool_file((rows, width), np.dtype(array.dtype)) as copy:
        for top in range(0, rows, band):
            for left in range(0, width, across):
                with reading(path):
                    copy[top : top + band, left : left + across] = array[top : top + band, left : left + across]
        yield Mapped(copy)
