"""What extraction needs from a place that holds images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

__all__ = ["Item", "Skipped", "Source"]


class Item(NamedTuple):
    """One image of a source.

    Attributes:
        id: Its name in the source, `/`-separated, in Unicode form NFC.
        label: Class name, None where there is none.
        size: Bytes; a hint for noticing changes, never identity.
        mtime_ns: Time of the last change in nanoseconds; a hint too.
    """

    id: str
    label: str | None
    size: int
    mtime_ns: int


class Skipped(NamedTuple):
    """Something in a source that is not read, and why."""

    path: str
    reason: str


class Source(Protocol):
    """A place that lists images in a stable order and gives their bytes. Picklable, and holds nothing open."""

    @property
    def root(self) -> str:
        """Where it is, as recorded in the dataset."""

    def rows(self, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        """The images one by one, the same order every time; what is not read goes to `on_skip`.

        Raises:
            BadInputError: there is no image, or two have the same id.
        """

    def read(self, id_: str) -> bytes:
        """The bytes of an image.

        Raises:
            BadInputError: the id leads out of the source, or to nothing that can be read.
        """
