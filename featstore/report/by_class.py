"""The classes that change most."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from featstore.evaluate import Changes, ClassChange

__all__ = ["Extremes", "extremes"]

_LISTED = 5


class Extremes(NamedTuple):
    """The classes that gain most and those that lose most, the largest change first."""

    gaining: list[ClassChange]
    losing: list[ClassChange]


def extremes(changes: Changes) -> Extremes:
    """At most 5 classes on each side; of equal changes, the class that comes first by name."""
    gaining = sorted(changes.classes, key=lambda item: item.before - item.after)
    losing = sorted(changes.classes, key=lambda item: item.after - item.before)
    return Extremes(
        [item for item in gaining[:_LISTED] if item.after > item.before],
        [item for item in losing[:_LISTED] if item.after < item.before],
    )
