"""What people declare of spaces: that vectors of two of them may be compared, although nothing recorded says so."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from featstore.errors import CorruptStoreError
from featstore.store.files import Files
from featstore.store.log import numbered
from featstore.store.records import dump, fetch, utc_now

__all__ = ["Declaration", "append_declaration", "declared_with", "in_force", "read_declarations"]

_PREFIX = "declarations"


class Declaration(BaseModel):
    """`declarations/<k>.json`: two spaces are comparable, or no longer. Of several about the same two, the last one holds.

    Attributes:
        number: Its k.
        spaces: Digests of both, in sorted order.
        sets: The feature sets they were named by.
        note: Why, in the words of whoever declared it.
        withdrawn: Whether an earlier declaration is taken back.
        created: UTC, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    spaces: tuple[str, str]
    sets: tuple[str, str]
    note: str = ""
    withdrawn: bool = False
    created: str = Field(default_factory=utc_now)


def read_declarations(files: Files) -> list[Declaration]:
    """Every declaration, in the order in which they were made.

    Raises:
        CorruptStoreError: one is damaged, or stands in the place of another.
    """
    found = []
    for number in numbered(files.names(_PREFIX)):
        key = f"{_PREFIX}/{number}.json"
        found.append(fetch(files, Declaration, key))
        if found[-1].number != number:
            raise CorruptStoreError(
                f"{files.where(key)} is declaration {found[-1].number}",
                hint="restore the file from a copy of the store",
            )
    return found


def in_force(files: Files) -> list[Declaration]:
    """The declarations that hold."""
    last = {declaration.spaces: declaration for declaration in read_declarations(files)}
    return [declaration for declaration in last.values() if not declaration.withdrawn]


def declared_with(files: Files, space: str) -> list[Declaration]:
    """The declarations that hold about a space, given by its digest."""
    return [declaration for declaration in in_force(files) if space in declaration.spaces]


def append_declaration(
    files: Files, spaces: tuple[str, str], sets: tuple[str, str], *, note: str, withdrawn: bool
) -> Declaration:
    """Publish a declaration as the last one; see `Declaration`."""
    while True:
        numbers = numbered(files.names(_PREFIX))
        number = numbers[-1] + 1 if numbers else 1
        made = Declaration(number=number, spaces=spaces, sets=sets, note=note, withdrawn=withdrawn)
        if files.put_new(f"{_PREFIX}/{number}.json", [dump(made)]):
            return made
