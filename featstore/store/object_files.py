"""A store's files in an object store (S3 and what speaks like it, GCS, Azure), through obstore.

Credentials, region and endpoint come from the usual environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, roles, …) at the
moment of use and are never part of this object, so pickling it or writing its location down gives nothing away.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from obstore.exceptions import AlreadyExistsError, BaseError

from featstore.errors import CorruptStoreError, FeatstoreError, NotFoundError, UsageError
from featstore.object_access import Patience, connect, explain
from featstore.store.files import FileInfo

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["ObjectFiles"]

_DELETE_BATCH = 1000
# a name that was taken is compared with what we wrote when it is no longer than this: a retried request may have won
_COMPARED_BYTES = 1 << 20
_CONFLICTS = 10
# one connection to S3 carries some 100 MB/s
_PART_BYTES = 8 << 20
_CONNECTIONS = 8


# a server under load comes back within minutes; credentials are not renewed between retries, so not much longer
_PATIENT = Patience(timedelta(minutes=3), timedelta(seconds=10), timedelta(seconds=60))
# a place that never answered is more likely wrong than busy
_IMPATIENT = Patience(timedelta(seconds=10), timedelta(seconds=3), timedelta(seconds=10))


class ObjectFiles:
    """The objects under a URL such as `s3://bucket/prefix`; see `Files`.

    Raises:
        UsageError: the scheme is not supported.
    """

    local = False

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        self._answered = False
        scheme = self.location.partition("://")[0]
        if scheme not in ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss"):
            raise UsageError(f"no store can be at {scheme}://", hint="give a folder, s3://…, gs://… or az://…")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectFiles) and other.location == self.location

    def __hash__(self) -> int:
        return hash(self.location)

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "_answered": self._answered}

    def where(self, key: str) -> str:
        """The URL of a key."""
        return f"{self.location}/{key}"

    def exists(self, key: str) -> bool:
        """Whether something was published under the key."""
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """Bytes published under the key, None if nothing was."""
        import obstore

        try:
            with self._explained(key):
                return int(obstore.head(self._store, key)["size"])
        except NotFoundError:
            return None

    def get(self, key: str) -> bytes:
        """The bytes published under the key."""
        import obstore

        with self._explained(key):
            return bytes(obstore.get(self._store, key).bytes())

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Some [start, stop) of the bytes under the key; near ones are fetched together."""
        import obstore

        if not ranges:
            return []
        with self._explained(key):
            parts = obstore.get_ranges(
                self._store, key, starts=[start for start, _ in ranges], ends=[stop for _, stop in ranges]
            )
            return [bytes(part) for part in parts]

    def view(self, key: str) -> memoryview:
        """The whole object in memory; a large one comes over several connections at once."""
        import obstore

        try:
            with self._explained(key):
                found = obstore.get(self._store, key, options={"range": (0, _PART_BYTES)})
                size, first = found.meta["size"], found.bytes()
        except CorruptStoreError:  # an empty object has no range at all
            return memoryview(bytearray(self.get(key)))
        data = memoryview(bytearray(size))
        data[: len(first)] = first

        def fetch(start: int) -> None:
            stop = min(size, start + _PART_BYTES)
            with self._explained(key):
                data[start:stop] = obstore.get_range(self._store, key, start=start, end=stop)

        if size > _PART_BYTES:
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                list(pool.map(fetch, range(_PART_BYTES, size, _PART_BYTES)))
        return data

    def names(self, prefix: str) -> list[str]:
        """Names directly under a prefix, sorted."""
        import obstore

        with self._explained(prefix):
            found = obstore.list_with_delimiter(self._store, prefix)
        paths = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def walk(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every object under a prefix."""
        import obstore

        with self._explained(prefix):
            for batch in obstore.list(self._store, prefix or None, chunk_size=_DELETE_BATCH):
                for entry in batch:
                    yield FileInfo(entry["path"], int(entry["size"]), entry["last_modified"].timestamp())

    def leftovers(self) -> Iterator[FileInfo]:
        """None: an object appears whole or not at all."""
        return iter(())

    def put_new(self, key: str, pieces: Iterable[bytes | memoryview]) -> bool:
        """Publish the joined pieces under the key with If-None-Match, unless something is there already."""
        import obstore

        data = b"".join(pieces)
        for attempt in range(_CONFLICTS):
            time.sleep(random.uniform(0, 0.05 * attempt))  # noqa: S311 - so that two writers do not meet again
            try:
                with self._explained(key):
                    obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                won = self._is_own(key, data)
                if won is not None:
                    return won
            else:
                return True
        raise FeatstoreError(
            f"{self.where(key)} can neither be written nor found", hint="run the same command again after a while"
        )

    def _is_own(self, key: str, data: bytes) -> bool | None:
        """Whether what has the name is what we wrote; None if nothing has it after all."""
        if len(data) > _COMPARED_BYTES:
            return False if self.exists(key) else None
        try:
            # the answer to a request that succeeded can get lost, and its retry then finds its own object
            return self.get(key) == data
        except NotFoundError:  # S3 answers two writers at once with a conflict, and either may have been turned away
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a small object."""
        import obstore

        with self._explained(key):
            obstore.put(self._store, key, data)

    def delete(self, keys: Iterable[str]) -> None:
        """Take objects away."""
        import obstore

        listed = list(keys)
        for start in range(0, len(listed), _DELETE_BATCH):
            with self._explained(listed[start]), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, listed[start : start + _DELETE_BATCH])

    @property
    def _store(self) -> ObjectStore:
        return self._patient if self._answered else self._impatient

    @cached_property
    def _patient(self) -> ObjectStore:
        return connect(self.location, _PATIENT)

    @cached_property
    def _impatient(self) -> ObjectStore:
        return connect(self.location, _IMPATIENT)

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except AlreadyExistsError:
            self._answered = True
            raise
        except (BaseError, OSError) as error:
            found = explain(error, self.location, self.where(key))
            self._answered |= isinstance(found, NotFoundError)
            raise found from (None if isinstance(found, NotFoundError) else error)
        self._answered = True
