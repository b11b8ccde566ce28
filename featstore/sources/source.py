"""What extraction needs from a place that holds images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

__all__ = ["NOWHERE", "NO_COLUMNS", "ColumnValue", "Item", "Place", "Skipped", "Source"]

ColumnValue = str | int | float | None
NO_COLUMNS: Mapping[str, ColumnValue] = MappingProxyType({})


class Place(NamedTuple):
    """Where in a source an image lies, if its id alone does not say it.

    Attributes:
        file: A file of the source, as the source names it.
        position: A row of that file, or a byte offset; what it means is the source's own affair.
    """

    file: str
    position: int


NOWHERE = Place("", -1)


class Item(NamedTuple):
    """One image of a source.

    Attributes:
        id: Its name in the source, `/`-separated, in Unicode form NFC.
        label: Class name, None where there is none.
        size: Bytes (of the file that holds it, where only that is known), −1 where unknown; a hint for noticing changes,
            never identity.
        mtime_ns: Time of the last change in nanoseconds, −1 where unknown; a hint too.
        place: Where it lies; `NOWHERE` if the id says that.
        columns: Further columns of the row.
    """

    id: str
    label: str | None
    size: int
    mtime_ns: int
    place: Place = NOWHERE
    columns: Mapping[str, ColumnValue] = NO_COLUMNS


class Skipped(NamedTuple):
    """Something in a source that is not read, and why."""

    path: str
    reason: str


class Source(Protocol):
    """A place that lists images in a stable order and gives their bytes. Picklable; open files stay behind."""

    @property
    def root(self) -> str:
        """Where it is, as recorded in the dataset."""

    def rows(self, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        """The images one by one, the same order every time; what is not read goes to `on_skip`.

        Raises:
            BadInputError: there is no image, or two have the same id.
        """

    def read(self, id_: str, place: Place = NOWHERE, /) -> bytes:
        """The bytes of an image file, from the id and the place that `rows` gave.

        Raises:
            BadInputError: the id leads out of the source, or to nothing that can be read.
        """
