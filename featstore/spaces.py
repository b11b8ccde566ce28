"""What makes vectors comparable: a space, its digest, and the difference between two of them.

A space has an *identity* (what must be equal: weights, architecture, preprocessing, pooling, normalisation, width) and
*numerics* (what may differ within a tolerance: engine, precision, library versions). Two feature sets may be compared when
their spaces have the same identity, or when one declares itself compatible with the other: a trained map declares its
output space compatible with the space of the old features it was trained against.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from featstore.errors import SpaceMismatchError
from featstore.nested import flatten

__all__ = ["FieldDifference", "Space", "check_comparable", "comparable", "difference", "require_same"]


class FieldDifference(NamedTuple):
    """One field of identity in which two spaces differ; a missing field reads as '(none)'."""

    field: str
    left: str
    right: str


class Space(BaseModel):
    """A space of vectors.

    Attributes:
        name: What people call it; not part of the identity.
        width: Components of a vector (`D`); part of the identity.
        identity: JSON-like parts that must be equal for vectors to be comparable. `kind` is always there:
            `encoder`, `map` or `named` (imported features, identified by the name they were given).
        numerics: Recorded, never compared exactly.
        compatible_with: Digests of the spaces whose vectors may be compared with vectors of this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    width: int = Field(gt=0)
    identity: dict[str, Any]
    numerics: dict[str, Any] = Field(default_factory=dict)
    compatible_with: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON of width and identity."""
        parts = {"width": self.width, **self.identity}
        return hashlib.sha256(
            json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        ).hexdigest()

    @classmethod
    def named(cls, name: str, width: int) -> Space:
        """The space of features that were made elsewhere and are identified by a name only."""
        return cls(name=name, width=width, identity={"kind": "named", "name": name})


def difference(left: Space, right: Space) -> list[FieldDifference]:
    """The fields of identity in which two spaces differ, dotted, in sorted order; empty when they are the same space."""
    flat_left = _fields(left)
    flat_right = _fields(right)
    return [
        FieldDifference(field, flat_left.get(field, "(none)"), flat_right.get(field, "(none)"))
        for field in sorted(flat_left.keys() | flat_right.keys())
        if flat_left.get(field, "(none)") != flat_right.get(field, "(none)")
    ]


def comparable(left: Space, right: Space) -> bool:
    """Whether vectors of the two spaces may be compared: same identity, or declared compatible by either side."""
    return left.digest == right.digest or right.digest in left.compatible_with or left.digest in right.compatible_with


def check_comparable(left: Space, right: Space, *, left_set: str, right_set: str, hint: str = "") -> None:
    """Raise SpaceMismatchError, naming the differing fields, unless `comparable(left, right)`."""
    if not comparable(left, right):
        raise SpaceMismatchError(
            f"{left_set} and {right_set} lie in different spaces that nothing declares comparable"
            + _table(left_set, right_set, difference(left, right)),
            hint=hint,
        )


def require_same(expected: Space, got: Space, *, what: str, hint: str = "") -> None:
    """Raise SpaceMismatchError, naming the differing fields, unless both are the same space (appends, map inputs)."""
    if expected.digest != got.digest:
        raise SpaceMismatchError(
            f"{what}: the space is not the one expected" + _table("expected", "got", difference(expected, got)),
            hint=hint,
        )


def _fields(space: Space) -> dict[str, str]:
    """Everything that is identity, as text by dotted name."""
    flat = flatten({"width": space.width, **space.identity})
    return {name: part if isinstance(part, str) else json.dumps(part, sort_keys=True) for name, part in flat.items()}


def _table(left_title: str, right_title: str, rows: list[FieldDifference]) -> str:
    lines = [
        f"\n  {row.field}: {_short(row.left)} ({left_title}) · {_short(row.right)} ({right_title})" for row in rows
    ]
    return "".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "…"
