"""Files that a source is made of, on this machine or in an object store, as seekable streams."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from featstore.errors import BadInputError, FeatstoreError, NotFoundError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["FileSystem", "FoundFile", "is_remote", "joined"]

_KEPT_OPEN = 8
# one request costs about as much time as a few megabytes
_REMOTE_BUFFER = 4 << 20
_LOCAL_BUFFER = 1 << 16
_LISTED = 1000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_GLOB = re.compile(r"[*?\[]")


class FoundFile(NamedTuple):
    """A file that was found.

    Attributes:
        location: Path or URL.
        name: Its name below the folder it was looked for in.
        size: Bytes.
        mtime_ns: Time of the last change.
    """

    location: str
    name: str
    size: int
    mtime_ns: int


def is_remote(location: str) -> bool:
    """Whether a location is a URL of an object store."""
    return "://" in location


def joined(folder: str, name: str) -> str:
    """The location of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


class FileSystem:
    """Opens files by location and keeps the last few open. Pickled, it holds nothing."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()
        self._stores: dict[str, ObjectStore] = {}

    def __del__(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def __reduce__(self) -> tuple[type[FileSystem], tuple[()]]:
        return FileSystem, ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileSystem)  # it is a cache, and no part of what a source is

    __hash__ = None  # type: ignore[assignment]

    def find(self, pattern: str) -> list[FoundFile]:
        """The files that a pattern names, in the order of their names: `a.tar`, `*.tar`, `part-{000..127}.tar`.

        Raises:
            NotFoundError: there is none.
        """
        folder, _, last = pattern.rpartition("/")
        folder = folder or ("/" if pattern.startswith("/") else ".")
        names = list(_expanded(last))
        if len(names) > 1 or not _GLOB.search(last):
            return [self.stat(joined(folder, name)) for name in names]
        found = [file for file in self._listed(folder) if fnmatch.fnmatchcase(file.name, last)]
        if not found:
            raise NotFoundError(f"no file matches {pattern}", hint="quote the pattern, and check the folder")
        return sorted(found, key=lambda file: file.name)

    def stat(self, location: str) -> FoundFile:
        """Size and time of one file.

        Raises:
            NotFoundError: it is not there.
        """
        name = location.rpartition("/")[2]
        if is_remote(location):
            import obstore

            with self._reached(location) as (store, key):
                found = obstore.head(store, key)
            return FoundFile(location, name, int(found["size"]), _nanoseconds(found))
        try:
            info = Path(location).stat()
        except OSError as error:
            raise NotFoundError(
                f"{location} cannot be read: {error.strerror}", hint="check the name, and quote patterns"
            ) from error
        return FoundFile(location, name, info.st_size, info.st_mtime_ns)

    def walk(self, prefix: str) -> Iterator[FoundFile]:
        """Every object below a URL, in the order in which the object store lists them, which is that of their keys."""
        import obstore

        with self._reached(prefix + "/") as (store, _):
            root = prefix.split("://", 1)[1].partition("/")[2].rstrip("/")
            for batch in obstore.list(store, f"{root}/" if root else None, chunk_size=_LISTED):
                for entry in batch:
                    name = entry["path"][len(root) :].lstrip("/")
                    yield FoundFile(joined(prefix, name), name, int(entry["size"]), _nanoseconds(entry))

    def open(self, location: str) -> BinaryIO:
        """A seekable stream of a file; it belongs to this object, which closes it when others are used.

        Raises:
            BadInputError: it is not there, or no regular file.
        """
        if location in self._open:
            self._open.move_to_end(location)
            return self._open[location]
        stream: BinaryIO
        if is_remote(location):
            try:
                found = self.stat(location)
            except NotFoundError as error:
                raise BadInputError(f"{location} is not there any more") from error
            stream = cast("BinaryIO", io.BufferedReader(_Remote(self, found), _REMOTE_BUFFER))
        else:
            stream = _opened(location)
        self._open[location] = stream
        while len(self._open) > _KEPT_OPEN:
            self._open.popitem(last=False)[1].close()
        return stream

    def read(self, location: str, limit: int) -> bytes:
        """All bytes of an object.

        Raises:
            BadInputError: it is not there, or longer than `limit`.
        """
        import obstore

        with self._reached(location) as (store, key):
            found = obstore.get(store, key)
            if found.meta["size"] > limit:
                raise BadInputError(f"{location} has {found.meta['size']:,} bytes, more than {limit:,}")
            return bytes(found.bytes())

    def read_range(self, location: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of an object."""
        import obstore

        with self._reached(location) as (store, key):
            return bytes(obstore.get_range(store, key, start=start, end=stop))

    def _listed(self, folder: str) -> Iterator[FoundFile]:
        if is_remote(folder):
            yield from (file for file in self.walk(folder) if "/" not in file.name)
            return
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_file():
                        info = entry.stat()
                        yield FoundFile(joined(folder, entry.name), entry.name, info.st_size, info.st_mtime_ns)
        except OSError as error:
            raise NotFoundError(f"{folder} cannot be listed: {error.strerror}") from error

    @contextlib.contextmanager
    def _reached(self, location: str) -> Iterator[tuple[ObjectStore, str]]:
        """The store of an object and its key there; what the store says is put into words."""
        from obstore.exceptions import BaseError

        from featstore.object_access import Patience, connect, explain

        scheme, _, rest = location.partition("://")
        bucket, _, key = rest.partition("/")
        base = f"{scheme}://{bucket}"
        if base not in self._stores:
            patience = Patience(timedelta(minutes=1), timedelta(seconds=10), timedelta(seconds=60))
            self._stores[base] = connect(base, patience)
        try:
            yield self._stores[base], key
        except FeatstoreError:
            raise
        except (BaseError, OSError) as error:
            raise explain(error, base, location) from error


class _Remote(io.RawIOBase):
    """An object as a raw stream; every read is a request."""

    def __init__(self, files: FileSystem, found: FoundFile) -> None:
        super().__init__()
        self._files = files
        self._found = found
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._found.size, self._at + len(buffer))
        if stop <= self._at:
            return 0
        data = self._files.read_range(self._found.location, self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _opened(location: str) -> BinaryIO:
    try:
        # O_NONBLOCK: opening a FIFO that took the file's place must not wait for a writer
        descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadInputError(f"{location} cannot be read: {error.strerror}") from error
    stream: IO[bytes] = os.fdopen(descriptor, "rb", buffering=_LOCAL_BUFFER)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise BadInputError(f"{location} is not a regular file")
    return cast("BinaryIO", stream)


def _expanded(name: str) -> Iterator[str]:
    """A name with a range in braces, written out: `part-{08..10}` → part-08, part-09, part-10."""
    match = _BRACES.search(name)
    if match is None:
        yield name
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{name[: match.start()]}{number:0{len(first)}}{name[match.end() :]}")


def _nanoseconds(entry: Any) -> int:
    return int(entry["last_modified"].timestamp() * 1_000_000_000)
