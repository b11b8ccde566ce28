"""Copies on this machine of what lies in an object store, named by their digests, read instead of it where they are there.

    blobs/ab/<digest>      the bytes of one published file; its name says what they must be
    groups/<digest>.json   which blobs are the files of one segment; written last, touched when used

Published bytes never change, so a copy never gets old, two stores share what is equal, and everything here may be deleted at
any time: it is fetched again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3
from pydantic import BaseModel, ConfigDict

from featstore.errors import CorruptStoreError, FeatstoreError, NotFoundError
from featstore.store.dataset import segment_key
from featstore.store.features import plan_key, set_key
from featstore.store.files import FileInfo, Files
from featstore.store.local_files import LocalFiles
from featstore.store.records import (
    DatasetVersion,
    FeatureSetVersion,
    Overlay,
    Removal,
    RowSegment,
    VectorSegment,
    fetch,
)

__all__ = [
    "CacheEntry",
    "CacheGroup",
    "CachedFiles",
    "Group",
    "blob_key",
    "cache_files",
    "cached",
    "clear_cache",
    "feature_groups",
    "fetch_blob",
    "group_key",
    "list_cache",
    "read_group",
    "row_groups",
]

_LEFTOVER_SECONDS = 86_400.0


class CacheGroup(BaseModel):
    """The files of one segment: digest and bytes of each by its name below the segment. `of` says what it is, for people."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str
    files: dict[str, tuple[str, int]]


class Group(NamedTuple):
    """A segment: its key, its name in the cache, its digest, and for features what lists its shards."""

    key: str
    name: str
    digest: str
    shards: tuple[VectorSegment, str] | None = None


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A line of the cache's report.

    Attributes:
        of: The segment, by its address in the store that it came from.
        files: How many files it has.
        bytes: Their size.
        used: When it was last opened, seconds since 1970.
    """

    of: str
    files: int
    bytes: int
    used: float


def cache_files() -> LocalFiles:
    """The cache of this user: `$FEATSTORE_CACHE`, else `~/.cache/featstore`."""
    return LocalFiles(Path(os.environ.get("FEATSTORE_CACHE") or Path.home() / ".cache" / "featstore").absolute())


def blob_key(digest: str) -> str:
    """Where the cache keeps the bytes with a digest."""
    return f"blobs/{digest[:2]}/{digest}"


def group_key(name: str) -> str:
    """Where the cache keeps what it knows of a segment."""
    return f"groups/{name}.json"


def read_group(cache: LocalFiles, name: str) -> CacheGroup | None:
    """What the cache holds of a segment, None if nothing (or nothing sound)."""
    try:
        return fetch(cache, CacheGroup, group_key(name))
    except (NotFoundError, CorruptStoreError):
        return None


def row_groups(record: DatasetVersion) -> list[Group]:
    """The segments of a dataset version."""
    parts: list[RowSegment | Overlay | Removal] = [*record.segments, *record.overlays, *record.removed]
    return [Group(segment_key(record.name, part.name), part.digest, part.digest) for part in parts]


def feature_groups(record: FeatureSetVersion) -> list[Group]:
    """The segments of a version of a feature set."""
    base = set_key(record.dataset, record.name)
    mixture = [record.mixture] if record.mixture else []
    return [
        *(Group(f"{base}/segments/{mixed.name}", mixed.digest, mixed.digest) for mixed in mixture),
        *(
            Group(
                f"{base}/segments/{part.name}",
                # a repair lists the sound part of a segment only
                part.digest if part.rows == part.group_rows else f"{part.digest}-{part.offset}-{part.rows}",
                part.digest,
                (part, plan_key(record.dataset, record.name, part.name)),
            )
            for part in record.segments
        ),
    ]


def cached(files: Files, groups: Iterable[Group]) -> Files:
    """The files themselves, or the cache before them for segments that it holds.

    Args:
        files: The store's files.
        groups: The segments that will be read.
    """
    if files.local:
        return files
    cache = cache_files()
    held: dict[str, tuple[str, int]] = {}
    everything = True
    for wanted in groups:
        group = read_group(cache, wanted.name)
        if group is None:
            everything = False
            continue
        held.update({f"{wanted.key}/{part}": found for part, found in group.files.items()})
        with contextlib.suppress(OSError):  # a cache that is read-only does not know when it was used
            os.utime(cache.path(group_key(wanted.name)))
    return CachedFiles(files, cache, held, local=everything) if held else files


class CachedFiles:
    """A store's files, of which some are read from copies on this machine.

    Args:
        origin: The store's files.
        cache: The copies.
        held: Digest and bytes of the copies by key.
        local: Whether whoever maps files finds all that it maps among the copies.
    """

    def __init__(self, origin: Files, cache: LocalFiles, held: dict[str, tuple[str, int]], *, local: bool) -> None:
        self.origin = origin
        self.cache = cache
        self.held = held
        self.local = local

    @property
    def location(self) -> str:
        """The store's address."""
        return self.origin.location

    def where(self, key: str) -> str:
        """The path of the copy, or the address in the store."""
        return self.cache.where(blob_key(self.held[key][0])) if key in self.held else self.origin.where(key)

    def exists(self, key: str) -> bool:
        """Whether something was published under the key."""
        return key in self.held or self.origin.exists(key)

    def size(self, key: str) -> int | None:
        """Bytes published under the key, None if nothing was."""
        return self.held[key][1] if key in self.held else self.origin.size(key)

    def get(self, key: str) -> bytes:
        """The bytes published under the key."""
        return bytes(self.view(key)) if key in self.held else self.origin.get(key)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Some [start, stop) of the bytes under the key."""
        if key not in self.held:
            return self.origin.get_ranges(key, ranges)
        view = self.view(key)
        return [bytes(view[start:stop]) for start, stop in ranges]

    def view(self, key: str) -> memoryview:
        """A private map of the copy; one that is gone or cut short is fetched again."""
        if key not in self.held:
            return self.origin.view(key)
        digest, size = self.held[key]
        with contextlib.suppress(NotFoundError):
            found = self.cache.view(blob_key(digest))
            if len(found) == size:
                return found
            self.cache.delete([blob_key(digest)])
        fetch_blob(self.origin, self.cache, key, digest)
        return self.cache.view(blob_key(digest))

    def names(self, prefix: str) -> list[str]:
        """Names directly under a prefix, sorted."""
        start = f"{prefix}/"
        held = {key[len(start) :].partition("/")[0] for key in self.held if key.startswith(start)}
        return sorted(held) if held else self.origin.names(prefix)

    def walk(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every published file under a prefix."""
        return self.origin.walk(prefix)

    def leftovers(self) -> Iterator[FileInfo]:
        """Unpublished files of writers that died."""
        return self.origin.leftovers()

    def put_new(self, key: str, pieces: Iterable[bytes | memoryview]) -> bool:
        """Publish the joined pieces under the key, unless something is there already."""
        return self.origin.put_new(key, pieces)

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a small file that carries no data of the store."""
        self.origin.put(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        """Take files away."""
        self.origin.delete(keys)


def fetch_blob(files: Files, cache: LocalFiles, key: str, digest: str | None) -> tuple[str, int]:
    """Copy a published file into the cache; its digest and bytes.

    Args:
        files: The store's files.
        cache: The copies.
        key: Key of the file.
        digest: What it must be, None where only the whole segment has a digest.

    Raises:
        CorruptStoreError: it is missing, or not the bytes that were published.
    """
    repair = "`featstore verify` shows the extent of the damage, `featstore repair` mends it"
    try:
        data = files.view(key)
    except NotFoundError:
        raise CorruptStoreError(f"{files.where(key)} is missing", hint=repair) from None
    found = blake3(data).hexdigest()
    if digest not in (None, found):
        raise CorruptStoreError(f"{files.where(key)} holds other bytes than were published", hint=repair)
    try:
        cache.put_new(blob_key(found), [data])
    except FeatstoreError as error:
        raise FeatstoreError(
            error.message,
            hint="make room with `featstore cache clear`, or let FEATSTORE_CACHE name a folder with more, and run the "
            "same command again",
        ) from error
    return found, len(data)


def list_cache() -> list[CacheEntry]:
    """What the cache holds, the last used first."""
    cache = cache_files()
    entries = []
    for info in cache.walk("groups"):
        group = read_group(cache, Path(info.key).stem)
        if group is not None:
            size = sum(size for _, size in group.files.values())
            entries.append(CacheEntry(of=group.of, files=len(group.files), bytes=size, used=info.modified))
    return sorted(entries, key=lambda entry: -entry.used)


def clear_cache(unused_days: float = 0.0) -> int:
    """Delete copies; readers that have them open go on, and others fetch them again.

    Args:
        unused_days: Only those that nobody opened for so long.

    Returns:
        Bytes freed.
    """
    cache = cache_files()
    now = time.time()
    keep: set[str] = set()
    drop = []
    for info in cache.walk("groups"):
        group = read_group(cache, Path(info.key).stem)
        if group is not None and unused_days and info.modified > now - unused_days * 86_400:
            keep.update(blob_key(digest) for digest, _ in group.files.values())
        else:
            drop.append(info)
    # what belongs to no segment yet may be of a copy that is just being made
    fresh = now - _LEFTOVER_SECONDS if unused_days else now
    loose = (info for source in (cache.walk("blobs"), cache.leftovers()) for info in source)
    drop += [info for info in loose if info.key not in keep and info.modified <= fresh]
    # measured cells (`featstore eval`) are small, and kept as long
    drop += [info for info in cache.walk("cells") if info.modified <= now - unused_days * 86_400]
    cache.delete(info.key for info in drop)
    return sum(info.size for info in drop)
