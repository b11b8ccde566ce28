"""Headers of `.npy` arrays.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from featstore.errors import BadInputError
from featstore.foreign.reading import reading

__all__ = ["ArrayHeader", "read_header"]


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


def read_header(stream: IO[bytes], path: Path | str, name: str = "") -> ArrayHeader:
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
