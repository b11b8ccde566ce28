"""What people declare of spaces: that vectors of two of them may be compared, although nothing recorded says so."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from featstore.errors import AlignmentError, CorruptStoreError, UsageError
from featstore.spaces import Space
from featstore.store.files import Files
from featstore.store.log import numbered
from featstore.store.records import dump, fetch, utc_now

__all__ = ["Declaration", "declare_spaces", "declared_with", "in_force", "read_declarations"]

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


def declare_spaces(
    files: Files, sets: tuple[str, str], spaces: tuple[Space, Space], *, note: str, withdraw: bool
) -> Declaration:
    """Declare two spaces comparable, named by a set of each, or take that back; see `Store.declare`."""
    left, right = spaces
    if left.width != right.width:
        raise AlignmentError(
            f"{sets[0]} has {left.width} components and {sets[1]} {right.width}; they cannot be compared",
            hint="learn a map between them with `featstore train`",
        )
    if left.digest == right.digest:
        raise UsageError(f"{sets[0]} and {sets[1]} lie in one space already", hint="there is nothing to declare")
    digests = (min(left.digest, right.digest), max(left.digest, right.digest))
    if withdraw and all(made.spaces != digests for made in in_force(files)):
        raise UsageError(
            f"nobody declared {sets[0]} and {sets[1]} compatible",
            hint="`featstore show` lists what is declared of a set",
        )
    while True:
        numbers = numbered(files.names(_PREFIX))
        number = numbers[-1] + 1 if numbers else 1
        made = Declaration(number=number, spaces=digests, sets=sets, note=note, withdrawn=withdraw)
        if files.put_new(f"{_PREFIX}/{number}.json", [dump(made)]):
            return made
