"""`.npz`: a zip archive of `.npy` arrays, compressed or not, read as a stream with its checksums."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from featstore.convert.formats.base import Format, RawColumn, Source, check_matrix, find, plain_column
from featstore.convert.formats.npy import write_features
from featstore.convert.matrix import Mapped, block_rows, spool_file
from featstore.convert.selection import Selection
from featstore.errors import BadInputError
from featstore.foreign import ArrayHeader, read_header, reading

__all__ = ["NPZ"]

_TEXT_ROWS = 8192


class _Member:
    """One array of an archive: its header, and its bytes in order."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
        self._archive = archive
        self._info = info
        self.path = path
        self.name = info.filename.removesuffix(".npy")
        with self.open() as (header, offset, _):
            self.header: ArrayHeader = header
        if info.file_size != offset + header.nbytes:
            raise BadInputError(
                f"'{self.name}' in {path} has shape {header.shape} of {header.dtype}, which is {header.nbytes:,} bytes, "
                f"but holds {info.file_size - offset:,}",
                hint="the file is damaged; write or copy it again",
            )

    @contextmanager
    def open(self) -> Iterator[tuple[ArrayHeader, int, IO[bytes]]]:
        """(header, its size, the stream behind it)."""
        with reading(self.path, f"'{self.name}'"):
            stream = self._archive.open(self._info)
        with stream:
            header = read_header(stream, self.path, f"'{self.name}'")
            yield header, stream.tell(), stream

    def pieces(self, step: int) -> Iterator[NDArray[Any]]:
        """The flat values, `step` at a time; reading to the end checks the archive's checksum."""
        itemsize = self.header.dtype.itemsize
        left = self.header.nbytes // max(1, itemsize)
        with self.open() as (_, _, stream):
            while left:
                count = min(step, left)
                with reading(self.path, f"'{self.name}'"):
                    data = stream.read(count * itemsize)
                    if len(data) != count * itemsize:
                        raise EOFError("it ends early")
                    left -= count
                    if not left:
                        stream.read(1)  # at its end the member's checksum is compared
                yield np.frombuffer(data, dtype=self.header.dtype)

    def column(self) -> RawColumn:
        """The values of a one-dimensional array."""
        if self.header.dtype.kind in "biuf":
            return np.concatenate([np.empty(0, self.header.dtype), *self.pieces(1 << 20)])
        plain_column(np.empty(0, self.header.dtype), self.name, self.path)  # refuses what is no text before it is read
        texts: list[str | None] = []
        for piece in self.pieces(_TEXT_ROWS):
            texts += plain_column(piece, self.name, self.path)
        return texts


class _Streamed:
    """The rows of an archive member; see `Matrix`."""

    def __init__(self, member: _Member) -> None:
        self._member = member
        rows, width = member.header.shape
        self.shape = (rows, width)
        self.dtype = member.header.dtype
        self.narrowest: np.dtype[Any] = np.dtype(np.float16)

    def blocks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """See `Matrix`; rows before `start` are decompressed and dropped."""
        width = self.shape[1]
        end = 0
        for piece in self._member.pieces(block_rows(width * self.dtype.itemsize) * width):
            block = piece.reshape(-1, width)
            end += len(block)
            if end > start:
                yield block[max(0, start - (end - len(block))) :]


@contextmanager
def _read(path: Path, key: str) -> Iterator[Source]:
    with reading(path):
        archive = zipfile.ZipFile(path)
    with archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        member = _Member(archive, infos.pop(find(infos, key, path)), path)
        check_matrix(member.header.shape, member.header.dtype, path)
        columns, left_out = {}, {}
        for name, info in infos.items():
            other = _Member(archive, info, path)
            if len(other.header.shape) == 1:
                columns[name] = other.column
            else:
                left_out[name] = f"its shape is {other.header.shape}"
        if not member.header.fortran:
            yield Source(_Streamed(member), columns, left_out)
            return
        # column after column: put on disk as it comes, and map that
        rows, width = member.header.shape
        with spool_file((width, rows), member.header.dtype) as copy:
            flat, position = copy.reshape(-1), 0
            for piece in member.pieces(block_rows(member.header.dtype.itemsize)):
                flat[position : position + len(piece)] = piece
                position += len(piece)
            yield Source(Mapped(copy.T), columns, left_out)


def _write(path: Path, chosen: Selection) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

        def member(name: str) -> IO[bytes]:
            return archive.open(f"{name}.npy", "w", force_zip64=True)

        with member("features") as stream:
            write_features(stream, chosen)
        for name, values in chosen.numbers.items():
            with member(name) as stream:
                np.lib.format.write_array(stream, values, allow_pickle=False)
        for name in chosen.text_names:
            with member(name) as stream:
                _write_texts(stream, partial(chosen.written, name), chosen.shape[0])


def _write_texts(stream: IO[bytes], texts: Any, rows: int) -> None:
    """Fixed-width Unicode, a block at a time: as wide as the longest of all."""
    width = max((len(text) for text in texts()), default=1) or 1
    dtype = np.dtype(f"<U{width}")
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype.str, "fortran_order": False, "shape": (rows,)})
    remaining = texts()
    while part := list(islice(remaining, _TEXT_ROWS)):
        stream.write(np.array(part, dtype=dtype).tobytes())


NPZ = Format(_read, _write)
