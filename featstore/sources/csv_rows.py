"""A CSV of rows, read as a stream; a row's position is the byte at which its line begins."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence

from featstore.errors import BadInputError
from featstore.sources.files import FileSystem
from featstore.sources.source import ColumnValue
from featstore.sources.values import Kind, parsed_as, text_kind

__all__ = ["CsvRows"]


class _Lines:
    """The lines of a stream as text, and how many bytes of it were taken."""

    def __init__(self, files: FileSystem, location: str, start: int) -> None:
        self._stream = files.open(location)
        self._location = location
        self.at = start

    def __iter__(self) -> Iterator[str]:
        while True:
            self._stream.seek(self.at)  # somebody else may have used the stream since
            line = self._stream.readline()
            if not line:
                return
            start = 0 if self.at else len(codecs.BOM_UTF8) * line.startswith(codecs.BOM_UTF8)
            self.at += len(line)
            try:
                yield line[start:].decode()
            except UnicodeDecodeError as error:
                raise BadInputError(f"{self._location} is not UTF-8: {error}", hint="save it as UTF-8") from error


class CsvRows:
    """One CSV with a header. A column in which every field is a number holds numbers.

    Args:
        files: How it is reached.
        location: Where it is.
        delimiter: Between fields.
    """

    def __init__(self, files: FileSystem, location: str, delimiter: str) -> None:
        self._files = files
        self._location = location
        self._delimiter = delimiter
        header = next(self._lines(0), None)
        if header is None:
            raise BadInputError(f"{location} is empty", hint="it needs a header and one line a row")
        self._start, self._header = header[0], header[1]
        if len(set(self._header)) != len(self._header):
            raise BadInputError(
                f"{location} has two columns of one name: {', '.join(self._header)}", hint="rename one of them"
            )

    def names(self) -> tuple[list[str], list[str]]:
        """All columns; none holds image bytes."""
        return list(self._header), []

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[ColumnValue]]]:
        """(position, values) of each row; the file is read twice, for the kinds of its columns first."""
        at = [self._header.index(name) for name in columns]
        kinds: list[Kind] = ["int"] * len(at)
        before = self._start
        for _, fields in self._lines(before):
            kinds = [text_kind(fields[k], kind) for k, kind in zip(at, kinds, strict=True)]
        for stop, fields in self._lines(before):
            yield before, [parsed_as(fields[k], kind) for k, kind in zip(at, kinds, strict=True)]
            before = stop

    def value(self, column: str, position: int) -> object:
        """The field of the row that begins at a byte.

        Raises:
            BadInputError: no row does.
        """
        found = next(self._lines(position), None)
        if found is None:
            raise BadInputError(f"{self._location} has no row at byte {position} any more")
        return found[1][self._header.index(column)]

    def _lines(self, start: int) -> Iterator[tuple[int, list[str]]]:
        """(byte after it, fields) of each row from a byte on."""
        lines = _Lines(self._files, self._location, start)
        width = len(getattr(self, "_header", ()))
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        try:
            for fields in reader:
                if fields:
                    width = width or len(fields)
                    if len(fields) != width:
                        raise BadInputError(
                            f"{self._location}, byte {lines.at}: {len(fields)} fields instead of {width}",
                            hint="quote fields that hold commas or line breaks",
                        )
                    yield lines.at, fields
        except csv.Error as error:
            raise BadInputError(f"{self._location}, byte {lines.at}: {error}", hint="write it as plain CSV") from error
