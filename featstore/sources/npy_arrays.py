"""Arrays of `.npy` and `.npz` files, read row by row: mapped where the file allows it, as a stream elsewhere."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from featstore.errors import BadInputError
from featstore.foreign import ArrayHeader, read_header, reading
from featstore.sources.files import FileSystem

__all__ = ["OpenArray", "open_npy", "open_npz"]

OpenArray = tuple[tuple[int, ...], np.dtype[Any], Callable[[int, int], NDArray[Any]]]
"""Shape, dtype, and a function from start and stop to those rows."""

_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and extra fields


def open_npy(files: FileSystem, location: str) -> OpenArray:
    """The array of a `.npy` file.

    Raises:
        BadInputError: it is none, or of Python objects.
    """
    stream = files.open(location)
    stream.seek(0)
    header = read_header(stream, location)
    return _rows(lambda: files.open(location), header, stream.tell(), location)


def open_npz(files: FileSystem, location: str) -> dict[str, OpenArray]:
    """The arrays of a `.npz` file by name. A compressed one is read in its order at the speed of unpacking.

    Raises:
        BadInputError: it is none, or holds Python objects.
    """
    stream = files.open(location)
    with reading(location):
        archive = zipfile.ZipFile(stream)
    found: dict[str, OpenArray] = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        name = info.filename.removesuffix(".npy")
        with reading(location, f"'{name}'"):
            member = archive.open(info)
        header = read_header(member, location, f"'{name}'")
        offset = member.tell()
        if info.file_size != offset + header.nbytes:
            raise BadInputError(f"'{name}' in {location} holds another number of bytes than its header says")
        if info.compress_type == zipfile.ZIP_STORED:
            stream.seek(info.header_offset)
            own = stream.read(_LOCAL_HEADER)
            offset += info.header_offset + _LOCAL_HEADER
            offset += int.from_bytes(own[26:28], "little") + int.from_bytes(own[28:30], "little")
            found[name] = _rows(lambda: files.open(location), header, offset, location)
        else:
            found[name] = _rows(lambda member=member: cast("BinaryIO", member), header, offset, location)  # type: ignore[misc]
    return found


def _rows(stream_of: Callable[[], BinaryIO], header: ArrayHeader, offset: int, location: str) -> OpenArray:
    if header.fortran and len(header.shape) > 1:
        raise BadInputError(
            f"{location} is in Fortran order, so that no image lies in one piece",
            hint="save numpy.ascontiguousarray(images)",
        )
    row_bytes = header.nbytes // max(1, header.shape[0]) if header.shape else 0

    def take(start: int, stop: int) -> NDArray[Any]:
        with reading(location):
            stream = stream_of()
            stream.seek(offset + start * row_bytes)
            data = stream.read((stop - start) * row_bytes)
        if len(data) != (stop - start) * row_bytes:
            raise BadInputError(f"{location} ends before row {stop}")
        return np.frombuffer(data, dtype=header.dtype).reshape(stop - start, *header.shape[1:])

    return header.shape, header.dtype, take
