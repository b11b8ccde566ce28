"""A table with one row for each image: a CSV or parquet file with the path of an image file or its bytes.

Columns are found by their usual names or named in the source's spec. What is left becomes columns of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from featstore.errors import BadInputError, UnknownNameError, UsageError
from featstore.sources.csv_rows import CsvRows
from featstore.sources.files import FileSystem, is_remote, joined
from featstore.sources.image_folder import ImageFolder
from featstore.sources.object_folder import ObjectFolder
from featstore.sources.parquet_rows import ParquetRows
from featstore.sources.source import NOWHERE, ColumnValue, Item, Place, Skipped
from featstore.sources.values import chosen_column

__all__ = ["Roles", "RowFile", "Table", "TableOptions"]

_ID = ("id", "ids", "key")
_PATH = ("path", "file_name", "filename", "file", "image_path")
_BYTES = ("image", "image_bytes", "bytes", "content", "jpg", "png")
_LABEL = ("label", "labels", "class", "class_name")


class TableOptions(NamedTuple):
    """What the spec of a table says.

    Attributes:
        id: Column of the ids; None takes a usual name, else the path, else the row's number.
        path: Column of paths relative to `root`.
        image: Column of image bytes.
        label: Column of class names.
        root: Folder or URL that paths are relative to; None takes the table's own.
        columns: Further columns that are kept; None keeps all that hold names or numbers.
    """

    id: str | None = None
    path: str | None = None
    image: str | None = None
    label: str | None = None
    root: str | None = None
    columns: tuple[str, ...] | None = None


class Roles(NamedTuple):
    """Which column is what; see `TableOptions`."""

    id: str | None
    path: str | None
    image: str | None
    label: str | None
    columns: tuple[str, ...]


class RowFile(Protocol):
    """One file of a table."""

    def names(self) -> tuple[list[str], list[str]]:
        """Columns of names and numbers, and columns that can hold image bytes."""

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[ColumnValue]]]:
        """(position, values of these columns) of each row."""

    def value(self, column: str, position: int) -> object:
        """The value of one row, bytes or text.

        Raises:
            BadInputError: there is none.
        """


@dataclass(frozen=True)
class Table:
    """Rows of one or several CSV or parquet files.

    Attributes:
        pattern: What the user gave.
        folder: Where the files are.
        names: The files, in order.
        roles: Which column is what.
        images: Where paths lead; None for a table that holds the images itself.
        files: How the files are reached.
    """

    pattern: str
    folder: str
    names: tuple[str, ...]
    roles: Roles
    images: ImageFolder | ObjectFolder | None
    files: FileSystem = field(default_factory=FileSystem)
    _open: dict[str, RowFile] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        return Table, (self.pattern, self.folder, self.names, self.roles, self.images)

    @classmethod
    def open(cls, pattern: str, options: TableOptions) -> Table:
        """The table behind a path, URL or pattern.

        Raises:
            NotFoundError: no such file or column.
            UsageError: no column says where the images are.
        """
        files = FileSystem()
        found = files.find(pattern)
        folder = found[0].location.removesuffix(found[0].name)
        plain, binary = _row_file(files, found[0].location).names()
        roles = _roles(pattern, options, plain, binary)
        images: ImageFolder | ObjectFolder | None = None
        if roles.image is None:
            root = options.root if options.root is not None else folder or "."
            if not is_remote(root) and is_remote(folder) and not root.startswith("/"):
                root = joined(folder, root)
            images = ObjectFolder(root.rstrip("/")) if is_remote(root) else ImageFolder.open(root)
        return cls(pattern, folder, tuple(file.name for file in found), roles, images, files)

    @property
    def root(self) -> str:
        """The pattern, or the folder of the image files that it lists."""
        return self.images.root if self.images is not None else self.pattern

    def rows(self, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        """The rows in the order of the files.

        Raises:
            BadInputError: there is none, or a file that cannot be read.
        """
        wanted = [name for name in (self.roles.id or self.roles.path, self.roles.label, *self.roles.columns) if name]
        number = 0
        for name in self.names:
            found = self.files.stat(joined(self.folder, name))
            # image files have sizes and times of their own, which would take a look at each
            size, mtime = (found.size, found.mtime_ns) if self.images is None else (-1, -1)
            for position, values in self._file(name).rows(wanted):
                given = iter(values)
                id_ = next(given) if self.roles.id or self.roles.path else f"{number:09d}"
                label = next(given) if self.roles.label else None
                columns = dict(zip(self.roles.columns, given, strict=True))
                number += 1
                if id_ is None or id_ == "":
                    on_skip(Skipped(f"{name}, row {number}", "it has no id"))
                    continue
                # a path that is the id needs no place: the table may be written anew
                place = Place(name, position) if self.roles.id or self.images is None else NOWHERE
                yield Item(str(id_), None if label is None else str(label), size, mtime, place, columns)
        if not number:
            raise BadInputError(f"{self.pattern} has no rows", hint="one row for each image")

    def read(self, id_: str, place: Place = NOWHERE, /) -> bytes:
        """The bytes of one image.

        Raises:
            BadInputError: the row is not that of the id any more, or the image cannot be read.
        """
        if self.images is not None and not self.roles.id:
            return self.images.read(id_)
        if place.file not in self.names:
            raise BadInputError(f"{id_} lies in '{place.file}', which is not among {self.pattern}")
        file = self._file(place.file)
        if self.roles.id and str(file.value(self.roles.id, place.position)) != id_:
            raise BadInputError(f"{id_} is not in its row of {place.file} any more: the file changed")
        if self.images is None:
            value = file.value(self.roles.image or "", place.position)
            if not isinstance(value, bytes):
                raise BadInputError(f"{id_} has no image in {place.file}")
            return value
        return self.images.read(str(file.value(self.roles.path or "", place.position)))

    def _file(self, name: str) -> RowFile:
        if name not in self._open:
            self._open.clear()  # one at a time: rows are read in their order
            self._open[name] = _row_file(self.files, joined(self.folder, name))
        return self._open[name]


def _row_file(files: FileSystem, location: str) -> RowFile:
    if location.lower().endswith(".parquet"):
        return ParquetRows(files, location)
    return CsvRows(files, location, "\t" if location.lower().endswith(".tsv") else ",")


def _roles(pattern: str, options: TableOptions, plain: list[str], binary: list[str]) -> Roles:
    for given in (options.id, options.path, options.label, *(options.columns or ())):
        if given and given not in plain:
            raise UnknownNameError(f"column of {pattern}", given, plain)
    if options.image and options.image not in binary:
        raise UnknownNameError(f"column of image bytes in {pattern}", options.image, binary)
    image = None if options.path else chosen_column(options.image, (*_BYTES, *binary), binary)
    path = None if image else chosen_column(options.path, _PATH, plain)
    if image is None and path is None:
        raise UsageError(
            f"no column of {pattern} says where the images are; it has {', '.join([*plain, *binary]) or 'none'}",
            hint=f"name it: '{pattern}?path=COLUMN' or '{pattern}?image=COLUMN'",
        )
    id_ = chosen_column(options.id, _ID, plain)
    label = chosen_column(options.label, _LABEL, plain)
    kept = plain if options.columns is None else options.columns
    columns = tuple(name for name in kept if name not in (id_, label, path if not id_ else None))
    return Roles(id_, path, image, label, columns)
