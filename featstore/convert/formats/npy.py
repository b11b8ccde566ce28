"""`.npy`: one array after a short text header. Its rows' ids, labels and columns are a CSV beside it.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from featstore.convert.formats.base import Format, Source, check_matrix, reading
from featstore.convert.matrix import Mapped, map_file
from featstore.convert.selection import Selection
from featstore.errors import BadInputError

__all__ = ["NPY", "ArrayHeader", "read_header", "write_features"]


class ArrayHeader(NamedTuple):
    """What a `.npy` header says, and the bytes that follow it."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the array, in Python integers that no header can overflow."""
        size = self.dtype.itemsize
        for part in self.shape:
            size *= part
        return size


def read_header(stream: IO[bytes], path: Path, name: str = "") -> ArrayHeader:
    """Read and check a header; the stream stands at the array's first byte afterwards.

    Raises:
        BadInputError: it is none, or an array of Python objects or records.
    """
    with reading(path, name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header by Python 2 reads all the same
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            header = ArrayHeader(*np.lib.format.read_array_header_1_0(stream))
        elif version == (2, 0):
            header = ArrayHeader(*np.lib.format.read_array_header_2_0(stream))
        else:
            raise ValueError(f"version {version} of the format holds records, not plain arrays")
    if header.dtype.hasobject:
        raise BadInputError(
            f"{name or 'the array'} in {path} holds pickled objects, which are never loaded",
            hint="save a plain array of numbers or text, with allow_pickle=False",
        )
    if header.dtype.names is not None or header.dtype.subdtype is not None or min(header.shape, default=0) < 0:
        raise BadInputError(
            f"{name or 'the array'} in {path} holds records ({header.dtype}, shape {header.shape})",
            hint="save each field as an array of its own",
        )
    return header


@contextmanager
def _read(path: Path, _key: str) -> Iterator[Source]:
    with path.open("rb") as stream:
        header = read_header(stream, path)
        offset = stream.tell()
    check_matrix(header.shape, header.dtype, path)
    array = map_file(path, header.dtype, header.shape, offset, fortran=header.fortran)
    if extra := path.stat().st_size - offset - header.nbytes:
        raise BadInputError(
            f"{path} goes on for {extra:,} bytes after its array of shape {header.shape}",
            hint="save all rows as one array; a second numpy.save into the same file is not read",
        )
    yield Source(Mapped(array))


def write_features(stream: IO[bytes], chosen: Selection) -> None:
    """The features as the bytes of a `.npy` file."""
    header = {"descr": chosen.dtype.str, "fortran_order": False, "shape": chosen.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for block in chosen.blocks():
        stream.write(block.tobytes())


def _write(path: Path, chosen: Selection) -> None:
    with path.open("wb") as stream:
        write_features(stream, chosen)


NPY = Format(_read, _write, rows_beside=True)
