"""Score thresholds through an upgrade: what new threshold accepts no more wrong pairs than the old one does today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from featstore.errors import UsageError
from featstore.evaluate.pair_scores import BINS, Histogram, PairScores
from featstore.evaluate.records import Distribution, OperatingPoint, ThresholdTransfer

__all__ = ["distributions", "transfer"]

_SHOWN_BINS = 1024


def transfer(
    cells: Mapping[str, PairScores], *, rates: Sequence[float] = (), thresholds: Sequence[float] = ()
) -> list[ThresholdTransfer]:
    """Operating points of the first cell, kept in the others.

    Args:
        cells: Scores by role; the first is where the thresholds apply today.
        rates: False-positive rates to keep, in [0, 1].
        thresholds: Thresholds in use today, in [−1, 1]; the rate they have is kept.

    Raises:
        UsageError: A rate or a threshold that cannot be, or cells without negative pairs.
    """
    for value, low, what in [(rate, 0.0, "rate") for rate in rates] + [(t, -1.0, "threshold") for t in thresholds]:
        if not low <= value <= 1:
            raise UsageError(f"{value} is no {what}", hint=f"a {what} lies between {low:g} and 1")
    if not rates and not thresholds:
        return []
    today, *others = cells
    negatives = {role: scores.n_negatives for role, scores in cells.items()}
    if not min(negatives.values()):
        raise UsageError("no pair is a negative, so there is no false-positive rate", hint="select more than one class")
    solved = cells[today].solve(thresholds, [int(rate * negatives[today]) for rate in rates])
    points = [*solved.found, *zip(thresholds, solved.accepted, strict=True)]
    kept = {today: _points(cells[today], points)}
    unchanged = {}
    for role in others:
        same_share = [accepted * negatives[role] // negatives[today] for _, accepted in points]
        solved = cells[role].solve([threshold for threshold, _ in points], same_share)
        kept[role] = _points(cells[role], solved.found)
        unchanged[role] = _points(
            cells[role], [(old, accepted) for (old, _), accepted in zip(points, solved.accepted, strict=True)]
        )
    asked = [*(f"fpr {rate:g}" for rate in rates), *(f"threshold {value:g}" for value in thresholds)]
    return [
        ThresholdTransfer(
            asked=text,
            before=today,
            kept={role: found[place] for role, found in kept.items()},
            unchanged={role: found[place] for role, found in unchanged.items()},
            resolved=points[place][1] > 0,
        )
        for place, text in enumerate(asked)
    ]


def _points(scores: PairScores, found: Sequence[tuple[float, int]]) -> list[OperatingPoint]:
    """Operating points of thresholds and the negatives that they accept."""
    right = scores.positives_at_least([threshold for threshold, _ in found])
    return [
        OperatingPoint(threshold=threshold, fpr=wrong / scores.n_negatives, tpr=good / scores.n_positives)
        for (threshold, wrong), good in zip(found, right, strict=True)
    ]


def distributions(cells: Mapping[str, PairScores]) -> dict[str, Distribution]:
    """Scores by role in the same bins, over the range that has any."""
    found = {role: scores.histogram() for role, scores in cells.items()}
    wide = {
        role: Histogram(*(counts.reshape(_SHOWN_BINS, -1).sum(axis=1) for counts in both))
        for role, both in found.items()
    }
    used = np.flatnonzero(sum(counts for both in wide.values() for counts in both))
    first, last = int(used[0]), int(used[-1]) + 1
    edge = 2 / _SHOWN_BINS
    return {
        role: Distribution(
            low=-1 + first * edge,
            high=-1 + last * edge,
            positives=both.positives[first:last].tolist(),
            negatives=both.negatives[first:last].tolist(),
        )
        for role, both in wide.items()
    }


assert BINS % _SHOWN_BINS == 0  # noqa: S101 - the bins of a page are whole numbers of those that are counted
