"""How the change is spread over classes and queries, from the values behind the means."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featstore.evaluate import EvalResult

__all__ = ["ClassChange", "Spread", "spread"]

_LISTED = 5


class ClassChange(NamedTuple):
    """A class, its queries, and their mean before (old/old) and after (new/old)."""

    name: str
    queries: int
    before: float
    after: float


class Spread(NamedTuple):
    """The change from old/old to new/old in the headline metric.

    Attributes:
        classes: Every class that has queries, in order of its code.
        gaining: The classes that gain most, the largest first.
        losing: The classes that lose most, the largest loss first.
        better: Queries with a higher value.
        worse: Queries with a lower one.
        equal: Queries with the same.
    """

    classes: list[ClassChange]
    gaining: list[ClassChange]
    losing: list[ClassChange]
    better: int
    worse: int
    equal: int


def spread(result: EvalResult) -> Spread:
    """The change of every class. Needs the evidence, and the cells old/old and new/old."""
    evidence = result.evidence
    problem = evidence.problem
    before, after = (evidence.per_query[role].values[result.headline] for role in ("old/old", "new/old"))
    counts = evidence.per_query["old/old"].valid
    before, after = before[counts], after[counts]
    codes, own, size = np.unique(problem.classes[counts], return_inverse=True, return_counts=True)

    def means(values: NDArray[np.float64]) -> list[float]:
        summed: list[float] = (np.bincount(own, values) / size).tolist()
        return summed

    classes = [
        ClassChange(problem.class_names[code], queries, *pair)
        for code, queries, *pair in zip(codes.tolist(), size.tolist(), means(before), means(after), strict=True)
    ]
    # stable: of equal changes, the class that comes first by name
    ordered = sorted(classes, key=lambda item: item.before - item.after)
    losing = sorted(classes, key=lambda item: item.after - item.before)
    return Spread(
        classes,
        [item for item in ordered[:_LISTED] if item.after > item.before],
        [item for item in losing[:_LISTED] if item.after < item.before],
        int((after > before).sum()),
        int((after < before).sum()),
        int((after == before).sum()),
    )
