"""What makes vectors comparable: a space, its digest, and the difference between two of them.

A space has an *identity* (what must be equal: weights, architecture, preprocessing, pooling, normalisation, width) and
*numerics* (what may differ within a tolerance: engine, precision, library versions). Two feature sets may be compared when
their spaces have the same identity, or when one declares itself compatible with the other: a trained map declares its
output space compatible with the space of the old features it was trained against. A gallery in the middle of a backfill is
*mixed*: its rows lie in several spaces, and it is comparable with what all of them are comparable with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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
            `encoder`, `map`, `named` (imported features, identified by the name they were given) or `mixed`.
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

    @classmethod
    def mixed(cls, parts: Sequence[Space]) -> Space:
        """The space of a set whose rows lie in several spaces of one width; what it is comparable with follows from them."""
        digests = {part.digest for part in parts}
        known = digests.union(*(part.compatible_with for part in parts))
        with_all = {other for other in known if all(_reaches(part, other, parts) for part in parts)}
        made = cls(
            name=" + ".join(part.name for part in parts),
            width=parts[0].width,
            identity={"kind": "mixed", "parts": sorted(digests)},
        )
        itself = {made.digest} if digests <= with_all else set()
        return made.model_copy(update={"compatible_with": tuple(sorted(with_all | itself))})

    @property
    def is_mixed(self) -> bool:
        """Whether its vectors lie in several spaces."""
        return bool(self.identity["kind"] == "mixed")


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
    """Whether vectors of the two spaces may be compared: same identity, or declared compatible by either side.

    Two vectors of one mixed space need not be: a mixed space says so of itself if its parts are comparable.
    """
    if left.digest == right.digest and not left.is_mixed:
        return True
    return (
        right.digest in left.compatible_with
        or left.digest in right.compatible_with
        or _reaches_parts(left, right)
        or _reaches_parts(right, left)
    )


def _reaches(part: Space, other: str, parts: Sequence[Space]) -> bool:
    """Whether a part of a mixture is comparable with the space of a digest, by what the parts declare."""
    declared = part.digest == other or other in part.compatible_with
    return declared or any(space.digest == other and part.digest in space.compatible_with for space in parts)


def _reaches_parts(space: Space, mixed: Space) -> bool:
    """Whether a space declares itself comparable with everything that a mixed one is made of."""
    parts = mixed.identity["parts"] if mixed.is_mixed else ()
    return bool(parts) and all(part == space.digest or part in space.compatible_with for part in parts)


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
