"""How sure a mean over queries is: the paired bootstrap over classes, then queries.

Queries of one class share their positives, so they are not independent: a resample draws classes with replacement, then
queries within every drawn class. With several runs (seeds), runs are drawn too, and one draw of classes serves all of
them, because a class that is hard is hard in every run. The gallery stays fixed. Every column (a metric in a cell) is
averaged over the same resamples, so a difference of columns is paired. M columns, B resamples, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featstore.errors import AlignmentError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Column", "Estimate", "Resampled", "Run", "bootstrap_means"]

_LEVEL = 0.95
# Resamples whose query weights are held at once: enough for one matrix product to be worth it.
_CHUNK = 64


class Column(NamedTuple):
    """One metric in one cell of the evaluation."""

    role: str
    metric: str


class Estimate(NamedTuple):
    """A value and its 95 % percentile interval (None where nothing was resampled)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """Per-query values of one run.

    Attributes:
        values: float64 [Q, M], no NaN.
        classes: The class of each query, integers [Q]; the same class has the same number in every run.
    """

    values: NDArray[np.float64]
    classes: NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Resampled:
    """Means of some columns, and of the same columns over resamples.

    Attributes:
        columns: What the columns are, M.
        points: Means over all queries (and over runs), float64 [M].
        means: Means over each resample, float64 [B, M]; B may be 0.
    """

    columns: tuple[Column, ...]
    points: NDArray[np.float64]
    means: NDArray[np.float64]
    _place: dict[Column, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", {column: place for place, column in enumerate(self.columns)})

    @classmethod
    def of(cls, columns: Sequence[Column], runs: Sequence[Run], *, resamples: int, seed: int) -> Resampled:
        """Average and resample `runs`, whose value columns are `columns`."""
        points = np.mean([run.values.mean(axis=0) for run in runs], axis=0)
        return cls(tuple(columns), points, bootstrap_means(runs, resamples=resamples, seed=seed))

    def has(self, column: Column) -> bool:
        """Whether that column was evaluated."""
        return column in self._place

    def estimate(self, weights: Mapping[Column, float], constant: float = 0.0) -> Estimate:
        """A weighted sum of columns plus a constant, with its paired interval."""
        places = [self._place[column] for column in weights]
        factors = np.array(list(weights.values()))
        value = float(self.points[places] @ factors) + constant
        if not len(self.means):
            return Estimate(value, None, None)
        return _with_interval(value, self.means[:, places] @ factors + constant)

    def function(self, columns: Sequence[Column], compute: Callable[..., NDArray[np.float64]]) -> Estimate:
        """Any function of the means of some columns, with its interval.

        Args:
            columns: What it depends on.
            compute: Takes one array for each column, all of one shape, and returns an array of that shape.

        Returns:
            Without an interval where too many resamples have no value for its bounds to be numbers.
        """
        places = [self._place[column] for column in columns]
        value = float(compute(*self.points[places]))
        if not len(self.means):
            return Estimate(value, None, None)
        with np.errstate(
            divide="ignore", over="ignore", invalid="ignore"
        ):  # a ratio may have no value in some resample
            resamples = compute(*self.means[:, places].T)
        return _with_interval(value, resamples)


def _with_interval(value: float, resamples: NDArray[np.float64]) -> Estimate:
    with np.errstate(invalid="ignore"):  # between two infinities there is no number
        low, high = np.quantile(resamples, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    if not np.isfinite([low, high]).all():
        return Estimate(value, None, None)
    return Estimate(value, float(low), float(high))


def bootstrap_means(runs: Sequence[Run], *, resamples: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """Means over resampled classes and queries (and runs, when there are several).

    Within a run the mean is over the drawn queries; the runs drawn count equally. A run that is drawn twice brings the
    same queries twice, and one that none of the drawn classes occurs in is left out of that resample.

    Args:
        runs: One or several, with the same columns.
        resamples: How many (B).
        seed: Of the random draws, which depend on the classes only, never on the values.

    Returns:
        float64 [B, M].

    Raises:
        UsageError: There is no run, or a run without queries.
        AlignmentError: Runs of different columns, or values and classes of different lengths.
    """
    if not runs or not all(len(run.values) for run in runs):
        raise UsageError("nothing to resample: a run without queries")
    if len({run.values.shape[1] for run in runs}) > 1 or any(len(run.values) != len(run.classes) for run in runs):
        raise AlignmentError("runs need the same columns, and one class for each query")
    random = np.random.default_rng(seed)
    classes = np.unique(np.concatenate([run.classes for run in runs]))
    grouped = [_Grouped.of(run, classes) for run in runs]
    sums = np.zeros((resamples, runs[0].values.shape[1]))
    used = np.zeros(resamples)
    for start in range(0, resamples, _CHUNK):
        stop = min(start + _CHUNK, resamples)
        drawn_classes = random.integers(len(classes), size=(stop - start, len(classes)))
        draws = random.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=stop - start)
        for number, run in enumerate(grouped):
            weights = np.stack([run.draw(drawn, random) for drawn in drawn_classes])
            total = weights.sum(axis=1)
            share = np.divide(draws[:, number], total, out=np.zeros(stop - start), where=total > 0)
            sums[start:stop] += (weights @ run.values) * share[:, None]
            used[start:stop] += draws[:, number] * (total > 0)
    if not used.all():
        raise UsageError(
            "a resample drew only classes that its runs do not have",
            hint="runs that share hardly any class cannot be resampled together; report them one by one",
        )
    return sums / used[:, None]


@dataclass(frozen=True, slots=True)
class _Grouped:
    """A run with its queries ordered by class: those of class c are values[first[c]:first[c] + count[c]]."""

    values: NDArray[np.float64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, run: Run, classes: NDArray[np.integer]) -> _Grouped:
        code = np.searchsorted(classes, run.classes)
        count = np.bincount(code, minlength=len(classes))
        return cls(run.values[np.argsort(code, kind="stable")], np.cumsum(count) - count, count)

    def draw(self, drawn: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float64]:
        """How often each query is drawn when every drawn class draws as many queries as it has, [Q]."""
        count = self.count[drawn]
        size = np.repeat(count, count)
        within = (random.random(len(size)) * size).astype(np.int64)
        picked = np.repeat(self.first[drawn], count) + within
        return np.bincount(picked, minlength=len(self.values)).astype(np.float64)
