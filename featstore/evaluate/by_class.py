"""How a change is spread over queries and classes, from the values behind the means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featstore.evaluate.records import Changes, ClassChange

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["QueryChange", "changes"]

_LEVELS = (5, 25, 50, 75, 95)


class QueryChange(NamedTuple):
    """The queries of one run that count.

    Attributes:
        before: One metric of each query before, float64 [Q].
        after: The same afterwards.
        classes: Class of each query, int64 [Q].
        class_names: Names of the classes.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    classes: NDArray[np.int64]
    class_names: Sequence[str]


def changes(runs: Sequence[QueryChange]) -> Changes:
    """The change of every class and its spread over queries; several runs are pooled, classes by name."""
    before, after = (np.concatenate([run[place] for run in runs]) for place in (0, 1))
    names = sorted({run.class_names[code] for run in runs for code in np.unique(run.classes)})
    number = {name: place for place, name in enumerate(names)}
    own = np.concatenate([_renumbered(run, number) for run in runs])
    size = np.bincount(own, minlength=len(names))
    means = [(np.bincount(own, values, minlength=len(names)) / size).tolist() for values in (before, after)]
    change = after - before
    return Changes(
        better=int((change > 0).sum()),
        worse=int((change < 0).sum()),
        equal=int((change == 0).sum()),
        quantiles={f"{level}%": float(np.percentile(change, level)) for level in _LEVELS},
        classes=[
            ClassChange(name=name, queries=queries, before=mean_before, after=mean_after)
            for name, queries, mean_before, mean_after in zip(names, size.tolist(), *means, strict=True)
        ],
    )


def _renumbered(run: QueryChange, number: dict[str, int]) -> NDArray[np.int64]:
    codes, own = np.unique(run.classes, return_inverse=True)
    return np.array([number[run.class_names[code]] for code in codes], np.int64)[own]
