"""Many scores of which ranks are asked for: eight bytes each, or fewer where they tie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SortedRuns"]

_RUN = 1 << 20  # so many scores are sorted at once
_MERGE = 1 << 23  # so many are held before runs are merged, which finds ties between them


class _Run(NamedTuple):
    """Scores ascending; where each occurs several times, distinct ones and how many lie below each place."""

    scores: NDArray[np.float64]
    below: NDArray[np.int64] | None

    def count_below(self, place: int) -> int:
        return place if self.below is None else int(self.below[place])


class SortedRuns:
    """Scores in sorted runs, without a copy of all of them; those that tie much are kept with how often they occur."""

    def __init__(self) -> None:
        self._new: list[NDArray[np.float64]] = []
        self._n_new = 0
        self._runs: list[_Run] = []
        self._merge_at = _MERGE

    def add(self, scores: NDArray[np.float64]) -> None:
        """Take scores in any order."""
        if len(scores):
            self._new.append(scores)
            self._n_new += len(scores)
            if self._n_new >= _RUN:
                self._sort()

    def at_least(self, score: float) -> int:
        """How many scores are at least this one."""
        return self._n_from(score, "left")

    def above(self, score: float) -> int:
        """How many are greater."""
        return self._n_from(score, "right")

    def greatest(self, rank: int) -> float | None:
        """The score of a rank, 1 for the greatest: bisects the float64 numbers themselves. None when there is none."""
        if not 1 <= rank <= self.at_least(-np.inf):
            return None
        low, high = (_number_of(edge) for edge in (-np.inf, np.inf))
        while low < high:
            middle = (low + high + 1) // 2
            if self.at_least(_float_of(middle)) >= rank:
                low = middle
            else:
                high = middle - 1
        return _float_of(low)

    def _n_from(self, score: float, side: Literal["left", "right"]) -> int:
        self._sort()
        return sum(
            run.count_below(len(run.scores)) - run.count_below(int(np.searchsorted(run.scores, score, side=side)))
            for run in self._runs
        )

    def _sort(self) -> None:
        """Make a run of what is new, and one of all runs when many scores are held."""
        if not self._n_new:
            return
        self._runs.append(_sorted(self._new))
        self._new, self._n_new = [], 0
        if sum(len(run.scores) for run in self._runs) < self._merge_at:
            return
        tied = [run for run in self._runs if run.below is not None]
        plain = [run.scores for run in self._runs if run.below is None]
        self._runs = [*([_merged(tied)] if tied else []), *([_sorted(plain)] if plain else [])]
        # where that did not help, wait longer for the next time
        self._merge_at = max(_MERGE, 2 * sum(len(run.scores) for run in self._runs))


def _sorted(parts: list[NDArray[np.float64]]) -> _Run:
    """One run of scores in any order; empties the list, so that nothing is held twice for longer than needed."""
    scores = np.concatenate(parts)
    parts.clear()
    scores.sort()
    first = np.append(True, scores[1:] != scores[:-1])
    if 2 * np.count_nonzero(first) > len(scores):
        return _Run(scores, None)
    places = np.flatnonzero(first)
    return _Run(scores[places], np.append(places, len(scores)))


def _merged(runs: list[_Run]) -> _Run:
    """One run of several that tie much."""
    scores, place = np.unique(np.concatenate([run.scores for run in runs]), return_inverse=True)
    counts = np.zeros(len(scores) + 1, np.int64)
    np.add.at(counts, place + 1, np.concatenate([np.diff(run.below) for run in runs if run.below is not None]))
    return _Run(scores, np.cumsum(counts))


def _number_of(score: float) -> int:
    """Whole numbers in the order of the float64 numbers they stand for."""
    bits = int(np.float64(score).view(np.int64))
    return bits if bits >= 0 else -(bits & (2**63 - 1))


def _float_of(number: int) -> float:
    return float(np.int64(number).view(np.float64)) if number >= 0 else -_float_of(-number)
