"""Putting a file back bit for bit: only where its bytes are proven, by a digest recorded elsewhere or a checksum of their own.

This is the one place where something published is written a second time. Whoever reads it gets the bytes that were published,
in every version and under every tag that names them, so nothing has to be committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from featstore.errors import FeatstoreError, NotFoundError, UsageError
from featstore.store.files import Files, open_files
from featstore.store.log import Log
from featstore.store.records import DatasetVersion, FeatureSetVersion, StoreRecord, fetch, load

__all__ = ["Restorer", "open_copy", "restore_marker"]

_MARKER = "featstore.json"


@dataclass
class Restorer:
    """Puts files back.

    Attributes:
        files: The damaged store's files.
        copy: Files of a second copy of the store, if there is one.
        dry_run: Only say what would be done.
        restored: What was put back: the place, and from what.
        unmended: What could not be: the place, and why.
    """

    files: Files
    copy: Files | None = None
    dry_run: bool = False
    restored: list[tuple[str, str]] = field(default_factory=list)
    unmended: list[tuple[str, str]] = field(default_factory=list)

    def read(self, key: str) -> bytes | None:
        """The bytes under a key, None if there are none or they cannot be read."""
        return _read(self.files, key)

    def from_copy(self, key: str) -> bytes | None:
        """The bytes under a key in the second copy."""
        return None if self.copy is None else _read(self.copy, key)

    def put(self, key: str, data: bytes, origin: str) -> None:
        """Put proven bytes under a key, in place of what is there."""
        self.restored.append((self.files.where(key), origin))
        if not self.dry_run:
            self.files.put(key, data)

    def matching(self, key: str, digest: str, candidates: Iterable[tuple[str, Callable[[], bytes | None]]]) -> bool:
        """Put back the first candidate with a blake3; False if none has it.

        Args:
            key: Where.
            digest: Hex.
            candidates: (what it is made from, function that gives the bytes or None).
        """
        for origin, make in candidates:
            data = make()
            if data is not None and blake3(data).hexdigest() == digest:
                self.put(key, data, origin)
                return True
        return False

    def documents(self, prefix: str, model: type[DatasetVersion | FeatureSetVersion]) -> None:
        """Put back damaged versions and tags of a dataset or feature set, and versions at the end that got lost."""
        log = Log(self.files, prefix, model)
        copy = None if self.copy is None else Log(self.copy, prefix, model)
        if copy is not None:
            newest = max(log.numbers(), default=0)
            for number in copy.numbers():
                if number > newest and self._has_segments(prefix, copy.read(number)):
                    self._put_copy(f"{prefix}/versions/{number}.json")
        damaged_there = set() if copy is None else set(copy.damaged())
        for key in log.damaged():
            if self.from_copy(key) is None or key in damaged_there:
                why = "is damaged; only a second copy of the store has its bytes"
                self.unmended.append((self.files.where(key), why))
            else:
                self._put_copy(key)

    def _put_copy(self, key: str) -> None:
        data = self.from_copy(key)
        if data is not None:
            self.put(key, data, "second copy")

    def _has_segments(self, prefix: str, record: DatasetVersion | FeatureSetVersion) -> bool:
        """Whether a version of the copy is one of this store: it may also be a commit that was only made there."""
        return all(self.files.exists(f"{prefix}/segments/{part.name}/zarr.json") for part in record.segments)

    def group(self, key: str, digest: str) -> None:
        """Put back files of a group whose digest covers all of them (ids, columns, removed rows; which row lies where)."""
        ours = _contents(self.files, key)
        if _listing(ours) == digest:
            return
        theirs = {} if self.copy is None else _contents(self.copy, key)
        if _listing(theirs) != digest:
            self.unmended.append(
                (
                    self.files.where(key),
                    "holds other files than were published; only a second copy of the store has them",
                )
            )
            return
        for name_, data in theirs.items():
            if ours.get(name_) != data:
                self.put(f"{key}/{name_}", data, "second copy")
        for name_ in ours.keys() - theirs.keys():
            self.unmended.append((self.files.where(f"{key}/{name_}"), "is no file of the store; take it away"))


def open_copy(address: str, files: Files) -> Files:
    """The files of a second copy of a store.

    Raises:
        UsageError: it is another store.
    """
    copy = open_files(address)
    try:
        theirs = fetch(copy, StoreRecord, _MARKER)
    except NotFoundError:
        raise UsageError(
            f"{copy.location} is not a store", hint="give the folder or URL of a copy with --from"
        ) from None
    data = _read(files, _MARKER)
    if data is not None and load(StoreRecord, data, where=files.where(_MARKER)).uuid != theirs.uuid:
        raise UsageError(
            f"{copy.location} is another store, not a copy of {files.location}",
            hint="a copy is made of all files (cp -r, rsync, aws s3 sync) and has the same featstore.json",
        )
    return copy


def restore_marker(address: str, copy: str) -> bool:
    """Put back `featstore.json`, without which a store cannot be opened; False if it is sound."""
    files = open_files(address)
    try:
        fetch(files, StoreRecord, _MARKER)
    except UsageError:
        raise
    except FeatstoreError:
        theirs = open_files(copy)
        fetch(theirs, StoreRecord, _MARKER)
        Restorer(files).put(_MARKER, theirs.get(_MARKER), "second copy")
        return True
    return False


def _read(files: Files, key: str) -> bytes | None:
    try:
        return files.get(key)
    except NotFoundError:
        return None


def _contents(files: Files, key: str) -> dict[str, bytes]:
    return {info.key.removeprefix(f"{key}/"): files.get(info.key) for info in files.walk(key)}


def _listing(contents: dict[str, bytes]) -> str:
    lines: Sequence[str] = [f"{name} {blake3(data).hexdigest()}" for name, data in sorted(contents.items())]
    return blake3("\n".join(lines).encode()).hexdigest()
