"""Fetching segments of an object store to this machine, so that their rows are read at memory-map speed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from blake3 import blake3

from featstore.amounts import size
from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.progress import SILENT, Progress
from featstore.store.cache import CacheGroup, Group, blob_key, cache_files, fetch_blob, group_key, read_group
from featstore.store.files import Files
from featstore.store.local_files import LocalFiles
from featstore.store.records import ShardRecord, dump, fetch_all
from featstore.store.sealing import shards_digest
from featstore.store.zarr_format import chunk_key

__all__ = ["Fetched", "fetch_groups"]

# requests under way at once: enough to fill a network, few enough that their shards fit into memory
_SHARDS_AT_ONCE = 4


@dataclass
class Fetched:
    """What was copied to this machine, and what was here already."""

    files: int = 0
    bytes: int = 0
    present_files: int = 0
    present_bytes: int = 0


@dataclass
class _File:
    """One file of a segment; its digest is None where only the whole segment has one, and `here` once it is in the cache."""

    group: Group
    name: str
    digest: str | None
    size: int
    here: bool = False


def fetch_groups(files: Files, groups: Sequence[Group], *, what: str, progress: Progress = SILENT) -> Fetched:
    """Copy segments into the cache of this machine, except what is there already.

    Several processes may do so at once: one fetches while the others wait for it. Interrupted, the same call goes on with the
    files that are missing.

    Args:
        files: The store's files.
        groups: The segments.
        what: What they are together, for progress and messages.
        progress: Listener.

    Raises:
        CorruptStoreError: a file is missing, or not what was published.
        FeatstoreError: there is not enough space.
    """
    cache = cache_files()
    with _one_process(cache, what, progress):
        wanted = {group.name: _contents(files, cache, group) for group in groups}
        listed = [file for contents in wanted.values() for file in contents]
        missing = [file for file in listed if not file.here]
        present = [file.size for file in listed if file.here]
        _require_space(cache, sum(file.size for file in missing), what)
        progress.start(f"materialise {what}", len(listed), "files", done=len(present))
        for group in groups:
            _fetch(files, cache, [file for file in wanted[group.name] if not file.here], progress)
            _complete(files, cache, group, wanted[group.name])
    return Fetched(len(missing), sum(file.size for file in missing), len(present), sum(present))


def _contents(files: Files, cache: LocalFiles, group: Group) -> list[_File]:
    """The files of a segment."""
    held = read_group(cache, group.name)
    if held is not None:
        found = [_File(group, name, digest, size) for name, (digest, size) in held.files.items()]
    else:
        sizes = {info.key.removeprefix(f"{group.key}/"): info.size for info in files.walk(group.key)}
        digests = dict.fromkeys(sizes) if group.shards is None else _shard_digests(files, group)
        found = [_File(group, name, digest, sizes.get(name, 0)) for name, digest in digests.items()]
    for file in found:
        file.here = file.digest is not None and cache.size(blob_key(file.digest)) == file.size
    return found


def _shard_digests(files: Files, group: Group) -> dict[str, str | None]:
    """Digest of each file of the listed shards by its name below the segment, from the shards' records."""
    assert group.shards is not None  # noqa: S101 - for the type checker; the only caller has looked
    part, plan = group.shards
    keys = [f"{plan}/shards/{shard}.json" for shard in part.shards]
    records = fetch_all(files, ShardRecord, keys)
    if part.rows == part.group_rows and shards_digest(records) != part.digest:
        raise CorruptStoreError(
            f"the shard records of {files.where(plan)} are not those that were committed",
            hint="`featstore verify` shows the extent of the damage",
        )
    dimensions = {"features": 2, "input_digest": 2, "status": 1}
    return {
        chunk_key(name, record.shard, dimensions[name]): digest
        for record in records
        for name, digest in record.digests.items()
    }


def _fetch(files: Files, cache: LocalFiles, missing: list[_File], progress: Progress) -> None:
    pool = ThreadPoolExecutor(_SHARDS_AT_ONCE)
    try:
        jobs = {
            pool.submit(fetch_blob, files, cache, f"{file.group.key}/{file.name}", file.digest): file
            for file in missing
        }
        for job in as_completed(jobs):
            jobs[job].digest, jobs[job].size = job.result()
            progress.advance(1)
    finally:
        pool.shutdown(cancel_futures=True)


def _complete(files: Files, cache: LocalFiles, group: Group, contents: list[_File]) -> None:
    """Note that all files of a segment are here, once they are what the version says."""
    if group.shards is None:
        listing = "\n".join(f"{file.name} {file.digest}" for file in sorted(contents, key=lambda file: file.name))
        if blake3(listing.encode()).hexdigest() != group.digest:
            raise CorruptStoreError(
                f"{files.where(group.key)} holds other files than were published",
                hint="`featstore verify` shows the extent of the damage",
            )
    known = {file.name: (str(file.digest), file.size) for file in contents}
    if read_group(cache, group.name) is None:
        cache.delete([group_key(group.name)])  # a damaged one
        cache.put_new(group_key(group.name), [dump(CacheGroup(of=files.where(group.key), files=known))])


def _require_space(cache: LocalFiles, needed: int, what: str) -> None:
    folder = next(path for path in (cache.root, *cache.root.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FeatstoreError(
            f"{what} needs {size(needed)} more in {cache.location}, which has {size(free)} free",
            hint="make room with `featstore cache clear`, or let FEATSTORE_CACHE name a folder with more",
        )


@contextlib.contextmanager
def _one_process(cache: LocalFiles, what: str, progress: Progress) -> Iterator[None]:
    """Hold the lock of what is fetched; where the file system has no locks, two processes fetch twice and nothing worse."""
    path = cache.path(f"locks/{blake3(what.encode()).hexdigest(16)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                progress.note(f"another process is fetching {what}; waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield
