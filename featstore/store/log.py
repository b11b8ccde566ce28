"""The version log: numbered, create-only commits, and tags that name them.

A commit is one create-only `versions/<n>.json`. Two writers that want the same number race for one file; the loser reads
what won and decides anew, so nobody's rows are ever lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from featstore.errors import CorruptStoreError, NotFoundError, UnknownNameError
from featstore.store.files import Files
from featstore.store.names import check_name
from featstore.store.records import Commit, TagEntry, Version, dump, fetch, utc_now

__all__ = ["Log", "TagEntry", "numbered"]

V = TypeVar("V", bound=Commit)
_MISPLACED = "`featstore repair --from STORE` takes it from a second copy of the store"


class Log(Generic[V]):
    """The commits under one prefix.

    Args:
        files: The store's files.
        prefix: Key of the dataset or feature set.
        model: Record type of its versions.
    """

    def __init__(self, files: Files, prefix: str, model: type[V]) -> None:
        self._files = files
        self._prefix = prefix
        self._model = model

    def numbers(self) -> list[int]:
        """Committed version numbers, ascending."""
        return numbered(self._files.names(f"{self._prefix}/versions"))

    def read(self, number: int) -> V:
        """One version's record.

        Raises:
            CorruptStoreError: it is damaged, or that of another version.
        """
        key = f"{self._prefix}/versions/{number}.json"
        record = fetch(self._files, self._model, key)
        if (record.home, record.number) != (self._prefix, number):
            raise CorruptStoreError(
                f"{self._files.where(key)} is version {record.number} of {record.home}", hint=_MISPLACED
            )
        return record

    def listed(self, number: int) -> V | None:
        """The record of a version that `numbers` gave; None if it is gone since.

        Compaction replaces versions, and a garbage collection without grace may then drop them at once.
        """
        try:
            return self.read(number)
        except NotFoundError:
            if number not in self.numbers():
                return None
            key = f"{self._prefix}/versions/{number}.json"
            raise CorruptStoreError(f"{self._files.where(key)} is listed and cannot be read", hint=_MISPLACED) from None

    def latest(self) -> V | None:
        """The newest version's record, None before the first commit."""
        while numbers := self.numbers():
            newest = self.listed(numbers[-1])
            if newest is not None:
                return newest
        return None

    def commit(self, build: Callable[[V | None, int], V | None]) -> V:
        """Append what `build(newest, next_number)` returns; None means the newest already says it all.

        `build` is called again with the new newest whenever another writer got there first; it raises to give up.
        """
        while True:
            newest = self.latest()
            number = newest.number + 1 if newest else 1
            record = build(newest, number)
            if record is None:
                if newest is None:  # pragma: no cover - build never says so of nothing
                    raise NotFoundError(f"{self._prefix} has no version")
                return newest
            if self._files.put_new(f"{self._prefix}/versions/{number}.json", [dump(record)]):
                return record

    def tag(self, name: str, number: int, note: str | None = None) -> None:
        """Let a tag name a version, and say why: one append to the tag's own log, of which the highest entry wins."""
        check_name(name, "tag")
        while True:
            entries = numbered(self._files.names(f"{self._prefix}/tags/{name}"))
            following = entries[-1] + 1 if entries else 1
            created = utc_now() if note else None
            entry = TagEntry(tag=name, number=following, version=number, note=note, created=created)
            if self._files.put_new(f"{self._prefix}/tags/{name}/{entry.number}.json", [dump(entry)]):
                return

    def tags(self) -> dict[str, int]:
        """Every tag and the version it names now."""
        return {name: self._tagged(name) for name in self._files.names(f"{self._prefix}/tags")}

    def entries(self, name: str) -> list[TagEntry]:
        """The log of a tag, oldest first; empty if there is no such tag."""
        return [self._entry(name, number) for number in numbered(self._files.names(f"{self._prefix}/tags/{name}"))]

    def history(self) -> list[Version]:
        """What there is to say of every version, newest first."""
        tags = self.tags()
        moves = [entry for tag in tags for entry in self.entries(tag) if entry.note]
        found = []
        for number in reversed(self.numbers()):
            commit = self.listed(number)
            if commit is None:
                continue
            found.append(
                Version(
                    number=number,
                    created=commit.created,
                    rows=commit.rows,
                    tags=tuple(sorted(tag for tag, version in tags.items() if version == number)),
                    moves=tuple(entry for entry in moves if entry.version == number),
                    provenance=commit.provenance,
                )
            )
        return found

    def damaged(self) -> Iterator[str]:
        """Keys of versions and entries of tags that are not as they were published."""
        for number in self.numbers():
            try:
                self.listed(number)
            except CorruptStoreError:
                yield f"{self._prefix}/versions/{number}.json"
        for name in self._files.names(f"{self._prefix}/tags"):
            for number in numbered(self._files.names(f"{self._prefix}/tags/{name}")):
                try:
                    self._entry(name, number)
                except CorruptStoreError:
                    yield f"{self._prefix}/tags/{name}/{number}.json"

    def resolve(self, version: int | str | None, *, what: str) -> V:
        """The record of a version number, a tag, or the newest.

        Raises:
            NotFoundError: nothing was committed yet.
            UnknownNameError: no such version or tag.
        """
        if version is None:
            newest = self.latest()
            if newest is None:
                raise NotFoundError(f"{what} does not exist", hint="`featstore ls` lists what the store holds")
            return newest
        numbers = self.numbers()
        if not numbers:
            raise NotFoundError(f"{what} does not exist", hint="`featstore ls` lists what the store holds")
        text = str(version)
        if text.isascii() and text.isdigit():
            found = self.listed(int(text)) if int(text) in numbers else None
            if found is None:
                raise UnknownNameError(f"version of {what}", text, map(str, self.numbers()))
            return found
        tags = self._files.names(f"{self._prefix}/tags")
        if text not in tags:
            raise UnknownNameError(f"version or tag of {what}", text, [*map(str, numbers), *tags])
        while True:
            number = self._tagged(text)
            found = self.listed(number)
            if found is not None:
                return found
            if self._tagged(text) == number:  # else it names another version since
                raise CorruptStoreError(f"tag {text} of {what} names version {number}, which is gone", hint=_MISPLACED)

    def _tagged(self, name: str) -> int:
        return self._entry(name, numbered(self._files.names(f"{self._prefix}/tags/{name}"))[-1]).version

    def _entry(self, name: str, number: int) -> TagEntry:
        key = f"{self._prefix}/tags/{name}/{number}.json"
        entry = fetch(self._files, TagEntry, key)
        if (entry.tag, entry.number) != (name, number):
            raise CorruptStoreError(
                f"{self._files.where(key)} is entry {entry.number} of tag {entry.tag}", hint=_MISPLACED
            )
        return entry


def numbered(names: list[str]) -> list[int]:
    """The numbers k of names like `<k>.json`, ascending."""
    return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())
