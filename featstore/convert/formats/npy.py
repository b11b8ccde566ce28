"""`.npy`: one array after a short text header. Its rows' ids, labels and columns are a CSV beside it.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from featstore.convert.formats.base import Format, Source, check_matrix
from featstore.convert.matrix import Mapped, map_file
from featstore.convert.selection import Selection
from featstore.errors import BadInputError
from featstore.foreign import read_header

__all__ = ["NPY", "write_features"]


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
