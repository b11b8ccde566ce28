"""Rows of features in a file, read a block at a time: what the formats offer and importing asks for.

Memory stays bounded whatever the file: a matrix hands out blocks of a few megabytes. What can only be read in order
(compressed archives, parquet) and is wanted in another one is first copied to an unnamed temporary file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.errors import BadInputError, FeatstoreError

__all__ = [
    "BLOCK_BYTES",
    "Addressable",
    "Cursor",
    "Mapped",
    "Matrix",
    "block_rows",
    "map_file",
    "spool_file",
    "spooled",
]

BLOCK_BYTES = 4 << 20


def block_rows(row_bytes: int) -> int:
    """Rows of a block of about `BLOCK_BYTES`, at least one."""
    return max(1, BLOCK_BYTES // row_bytes)


class Matrix(Protocol):
    """N rows of D numbers that can be read in order.

    Attributes:
        shape: (N, D).
        dtype: What blocks come as.
        narrowest: The narrowest type they may be stored in without asking (bfloat16 is stored as float32).
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    narrowest: np.dtype[Any]

    def blocks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Blocks [b, D] in row order, beginning with row `start`.

        Raises:
            BadInputError: the file ends early, fails its checksum or cannot be decoded.
        """


class Addressable(Protocol):
    """Rows by number."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows as a fresh array [len(rows), D]."""


class Mapped:
    """Rows that lie in an uncompressed file as they are: any row costs its own bytes.

    Args:
        array: [N, D], usually a memory map.
        bfloat16: Whether its values are the bits of bfloat16 numbers (uint16), to be widened to float32.
    """

    def __init__(self, array: NDArray[Any], *, bfloat16: bool = False) -> None:
        self._array = array
        self._bfloat16 = bfloat16
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if bfloat16 else array.dtype
        self.narrowest: np.dtype[Any] = np.dtype(np.float32 if bfloat16 else np.float16)

    def blocks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """See `Matrix`; blocks are views of the file."""
        step = block_rows(self.shape[1] * self.dtype.itemsize)
        for first in range(start, self.shape[0], step):
            yield self._decoded(self._array[first : first + step])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """See `Addressable`."""
        return self._decoded(self._array[rows])

    def _decoded(self, values: NDArray[Any]) -> NDArray[Any]:
        if not self._bfloat16:
            return values
        # a bfloat16 is the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)


class Cursor:
    """Ascending rows out of a matrix that is read in order; each `take` goes on where the last one ended."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._blocks: Iterator[NDArray[Any]] | None = None
        self._block = np.empty((0, matrix.shape[1]), dtype=matrix.dtype)
        self._start = 0

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """See `Addressable`; rows ascend, from one call to the next too."""
        out = np.empty((len(rows), self._matrix.shape[1]), dtype=self._matrix.dtype)
        done = 0
        while done < len(rows):
            if self._blocks is None:
                self._start = int(rows[0])
                self._blocks = self._matrix.blocks(self._start)
            stop = int(np.searchsorted(rows, self._start + len(self._block)))
            out[done:stop] = self._block[rows[done:stop] - self._start]
            done = stop
            if done < len(rows):
                self._start += len(self._block)
                self._block = next(self._blocks)
        return out


@contextmanager
def spooled(matrix: Matrix) -> Iterator[Mapped]:
    """The matrix copied to a temporary file, so that its rows can be taken in any order."""
    with spool_file(matrix.shape, matrix.dtype) as copy:
        position = 0
        for block in matrix.blocks():
            copy[position : position + len(block)] = block
            position += len(block)
        yield Mapped(copy)


@contextmanager
def spool_file(shape: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """A matrix on disk without a name, gone afterwards.

    Raises:
        FeatstoreError: the temporary folder has no room for it.
    """
    size = shape[0] * shape[1] * dtype.itemsize
    with tempfile.TemporaryFile(prefix="featstore-") as file:
        _reserve(file, size)
        yield np.memmap(file, dtype=dtype, mode="r+", shape=shape)


def _reserve(file: IO[bytes], size: int) -> None:
    # room is taken now, because a map over a file system that fills up later ends the process
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    except OSError as error:
        raise FeatstoreError(
            f"the rows have to be put in order on disk, and {tempfile.gettempdir()} has no room for {size:,} bytes",
            hint="point TMPDIR at a folder with room",
        ) from error


def map_file(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, *, fortran: bool = False
) -> NDArray[Any]:
    """Map an array inside a file, read-only.

    Raises:
        BadInputError: the file is too short for it.
    """
    size = dtype.itemsize
    for part in shape:  # Python integers, which no header can overflow
        size *= part
    there = path.stat().st_size
    if there < offset + size:
        raise BadInputError(
            f"{path} says it holds an array of shape {shape}, which is {size:,} bytes, but has only "
            f"{max(0, there - offset):,}",
            hint="it is truncated or damaged; write or copy it again",
        )
    if not size:
        return np.empty(shape, dtype=dtype)
    with contextlib.suppress(OverflowError):
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")
    raise BadInputError(f"{path} has an array of shape {shape}, which is too large", hint="write it again")
