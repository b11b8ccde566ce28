"""Where a store's files are: the few operations a place must have, and the place that an address names.

Everything is published create-only and never changed afterwards, so two operations carry all safety: `put_new`, of which
exactly one of several racing writers gets True, and a reader that sees a whole file or none. Keys are '/'-separated and
made of checked names only (see `featstore.store.names`); what users bring never becomes part of one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from featstore.errors import UsageError

__all__ = ["TEMPORARY", "FileInfo", "Files", "open_files"]

TEMPORARY = ".tmp-"  # names of unpublished files start so; a crash leaves at most these behind
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class FileInfo(NamedTuple):
    """A published file: its key, its bytes, and when it was published by the clock of the place (seconds since 1970)."""

    key: str
    size: int
    modified: float


class Files(Protocol):
    """Files under one location. Cheap to make and to pickle: nothing is held open.

    Attributes:
        location: The address, as `open_files` takes it; never holds credentials.
        local: Whether `view` maps files of this machine, so that reading a part costs no more than the part.
    """

    @property
    def location(self) -> str:
        """The address."""
        ...

    @property
    def local(self) -> bool:
        """Whether `view` is a map of a file."""
        ...

    def where(self, key: str) -> str:
        """The full address of a key, for messages."""

    def exists(self, key: str) -> bool:
        """Whether something was published under the key."""

    def size(self, key: str) -> int | None:
        """Bytes published under the key, None if nothing was."""

    def get(self, key: str) -> bytes:
        """The bytes published under the key.

        Raises:
            NotFoundError: nothing was.
        """

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Some [start, stop) of the bytes under the key, in the order given.

        Raises:
            NotFoundError: nothing was published there.
        """

    def view(self, key: str) -> memoryview:
        """All bytes under the key as a writable view: a private memory map where that is possible.

        Raises:
            NotFoundError: nothing was published there.
        """

    def names(self, prefix: str) -> list[str]:
        """Names directly under a prefix, sorted; none when there is nothing."""

    def walk(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every published file under a prefix, in no particular order."""

    def leftovers(self) -> Iterator[FileInfo]:
        """Unpublished files of writers that died, where the place keeps such."""

    def put_new(self, key: str, pieces: Iterable[bytes | memoryview]) -> bool:
        """Publish the joined pieces under the key, durably, unless something is there already.

        A reader sees the whole file or none, and of several writers exactly one gets True.
        """

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a file, durably and at once: heartbeats, and what a repair puts back as it was published."""

    def delete(self, keys: Iterable[str]) -> None:
        """Take files away; those that are gone already are no error."""


def open_files(address: str | os.PathLike[str] | Files) -> Files:
    """The files at a folder or a URL such as `s3://bucket/prefix`; files themselves are passed through.

    Raises:
        UsageError: the URL carries credentials, or has a scheme that is not supported.
    """
    from featstore.store.local_files import LocalFiles

    if not isinstance(address, (str, os.PathLike)):
        return address
    text = os.fspath(address)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return LocalFiles(Path(text).expanduser().absolute())
    if scheme[1].lower() == "file":
        return LocalFiles(Path(text[len("file://") :]).absolute())
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise UsageError(
            "the store's address carries credentials, which would end up in logs and histories",
            hint="leave them out; they are taken from the usual environment (AWS_ACCESS_KEY_ID, profiles, roles)",
        )
    from featstore.store.object_files import ObjectFiles

    return ObjectFiles(text)
