"""A store's files in an object store (S3 and what speaks like it, GCS, Azure), through obstore.

Credentials, region and endpoint come from the usual environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, roles, …) at the
moment of use and are never part of this object, so pickling it or writing its location down gives nothing away.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from featstore.errors import FeatstoreError, NotFoundError, UsageError
from featstore.store.files import FileInfo

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["ObjectFiles"]

_DELETE_BATCH = 1000
# a name that was taken is compared with what we wrote when it is no longer than this: a retried request may have won
_COMPARED_BYTES = 1 << 20


class ObjectFiles:
    """The objects under a URL such as `s3://bucket/prefix`; see `Files`.

    Raises:
        UsageError: the scheme is not supported.
    """

    local = False

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        scheme = self.location.partition("://")[0]
        if scheme not in ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss"):
            raise UsageError(f"no store can be at {scheme}://", hint="give a folder, s3://…, gs://… or az://…")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectFiles) and other.location == self.location

    def __hash__(self) -> int:
        return hash(self.location)

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location}

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
        """The whole object in memory."""
        return memoryview(bytearray(self.get(key)))

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
        try:
            with self._explained(key):
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # the answer to a request that succeeded can get lost, and its retry then finds its own object
            return len(data) <= _COMPARED_BYTES and self.get(key) == data
        return True

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

    @cached_property
    def _store(self) -> ObjectStore:
        from obstore.store import from_url

        http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        try:
            store: ObjectStore = from_url(
                self.location,
                client_options={"timeout": "10 minutes", "allow_http": http},
                retry_config={"max_retries": 8, "retry_timeout": timedelta(minutes=3), "backoff": {}},
            )
            return store
        except (BaseError, ValueError) as error:
            raise UsageError(f"cannot use {self.location}: {error}", hint="check the address") from error

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFoundError(f"{self.where(key)} does not exist") from None
        except AlreadyExistsError:
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise FeatstoreError(
                f"{self.location} refuses access: {_first_line(error)}",
                hint="check the credentials and the policy of the bucket; then run the same command again",
            ) from error
        except (BaseError, OSError) as error:
            raise FeatstoreError(
                f"{self.where(key)} cannot be reached: {_first_line(error)}",
                hint="check the network and the endpoint; the same command goes on where it stopped",
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
