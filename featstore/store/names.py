"""Names inside a store, and the address `DATASET/NAME[@version]` of a feature set."""

from __future__ import annotations

import re
from typing import NamedTuple

from featstore.errors import UsageError

__all__ = ["SetRef", "check_name", "clean_name", "column_name", "is_view", "parse_dataset", "parse_set", "view_name"]

_VIEW = re.compile(r"(.+)\.v[0-9]+", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)


class SetRef(NamedTuple):
    """The parts of `DATASET/NAME@version`; `version` is a number, a tag or None for the newest."""

    dataset: str
    name: str
    version: str | None

    @property
    def key(self) -> str:
        """`DATASET/NAME`, without the version."""
        return f"{self.dataset}/{self.name}"


def check_name(name: str, what: str) -> str:
    """The name itself, if it may name something in a store.

    Raises:
        UsageError: it is not 1–100 of a–z, 0–9, '.', '_', '-', beginning with a letter or digit.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"'{name[:120]}' cannot name a {what}",
            hint="use 1 to 100 of a–z, 0–9, '.', '_' and '-', beginning with a letter or a digit, without '..'",
        )
    return name


def is_view(name: str) -> bool:
    """Whether a set's name says that it holds augmented views (`NAME.v1`, …), not features of the inputs as they are."""
    return _VIEW.fullmatch(name) is not None


def clean_name(name: str) -> str:
    """Name of the set whose view this is; of any other set its own."""
    found = _VIEW.fullmatch(name)
    return found[1] if found else name


def view_name(name: str, number: int) -> str:
    """Name of the set that holds one view of what the set `name` holds."""
    return f"{name}.v{number}"


def column_name(text: str) -> str:
    """A column's name made from a header: lower case, every other character than a–z, 0–9, '.', '_', '-' becomes '_'."""
    return check_name(re.sub(r"[^a-z0-9._-]", "_", text.strip().lower()).lstrip("._-") or "column", "column")


def parse_dataset(text: str) -> tuple[str, str | None]:
    """`NAME[@version]` → (name, version)."""
    name, _, version = text.partition("@")
    return check_name(name, "dataset"), version or None


def parse_set(text: str) -> SetRef:
    """`DATASET/NAME[@version]` → its parts.

    Raises:
        UsageError: the text has another form, or a part that cannot be a name.
    """
    address, _, version = text.partition("@")
    dataset, slash, name = address.partition("/")
    if not slash or "/" in name:
        raise UsageError(
            f"'{text[:120]}' is not a feature set",
            hint="write DATASET/NAME, for example cars/old or cars/old@2",
        )
    return SetRef(check_name(dataset, "dataset"), check_name(name, "feature set"), version or None)
