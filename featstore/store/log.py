"""The version log: numbered, create-only commits, and tags that name them.

A commit is one create-only `versions/<n>.json`. Two writers that want the same number race for one file; the loser reads
what won and decides anew, so nobody's rows are ever lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from pydantic import BaseModel

from featstore.errors import NotFoundError, UnknownNameError
from featstore.store.files import Files
from featstore.store.names import check_name
from featstore.store.records import dump, fetch

__all__ = ["Log"]

V = TypeVar("V", bound=BaseModel)


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
        return _numbers(self._files.names(f"{self._prefix}/versions"))

    def read(self, number: int) -> V:
        """One version's record."""
        key = f"{self._prefix}/versions/{number}.json"
        return fetch(self._files, self._model, key)

    def latest(self) -> V | None:
        """The newest version's record, None before the first commit."""
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def commit(self, build: Callable[[V | None, int], V | None]) -> V:
        """Append what `build(newest, next_number)` returns; None means the newest already says it all.

        `build` is called again with the new newest whenever another writer got there first; it raises to give up.
        """
        while True:
            numbers = self.numbers()
            newest = self.read(numbers[-1]) if numbers else None
            number = numbers[-1] + 1 if numbers else 1
            record = build(newest, number)
            if record is None:
                if newest is None:  # pragma: no cover - build never says so of nothing
                    raise NotFoundError(f"{self._prefix} has no version")
                return newest
            if self._files.put_new(f"{self._prefix}/versions/{number}.json", [dump(record)]):
                return record

    def tag(self, name: str, number: int) -> None:
        """Let a tag name a version: one append to the tag's own log, of which the highest entry wins."""
        check_name(name, "tag")
        while True:
            entries = _numbers(self._files.names(f"{self._prefix}/tags/{name}"))
            key = f"{self._prefix}/tags/{name}/{entries[-1] + 1 if entries else 1}.json"
            if self._files.put_new(key, [dump(_TagEntry(version=number))]):
                return

    def tags(self) -> dict[str, int]:
        """Every tag and the version it names now."""
        return {name: self._tagged(name) for name in self._files.names(f"{self._prefix}/tags")}

    def resolve(self, version: int | str | None, *, what: str) -> V:
        """The record of a version number, a tag, or the newest.

        Raises:
            NotFoundError: nothing was committed yet.
            UnknownNameError: no such version or tag.
        """
        numbers = self.numbers()
        if not numbers:
            raise NotFoundError(f"{what} does not exist", hint="`featstore ls` lists what the store holds")
        if version is None:
            return self.read(numbers[-1])
        text = str(version)
        if text.isascii() and text.isdigit():
            if int(text) in numbers:
                return self.read(int(text))
            raise UnknownNameError(f"version of {what}", text, map(str, numbers))
        tags = self._files.names(f"{self._prefix}/tags")
        if text not in tags:
            raise UnknownNameError(f"version or tag of {what}", text, [*map(str, numbers), *tags])
        return self.read(self._tagged(text))

    def _tagged(self, name: str) -> int:
        entry = _numbers(self._files.names(f"{self._prefix}/tags/{name}"))[-1]
        key = f"{self._prefix}/tags/{name}/{entry}.json"
        return fetch(self._files, _TagEntry, key).version


class _TagEntry(BaseModel):
    version: int


def _numbers(names: list[str]) -> list[int]:
    return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())
