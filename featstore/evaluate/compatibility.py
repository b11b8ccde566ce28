"""The verdict: may new queries search the old gallery?

M(q, g) is a metric with queries of model q against a gallery of model g. A new model is compatible with an old one when
M(new, old) > M(old, old) (Shen et al. 2020, "Towards backward-compatible representation learning", the empirical
criterion); here it has to be so beyond the 95 % interval of the paired difference.
"""

from __future__ import annotations

from typing import NamedTuple

from featstore.evaluate.statistics import Column, Estimate, Resampled

__all__ = ["Gain", "differences", "sentence", "update_gain", "verdict"]

CROSS, OLD, NEW, REFERENCE = "new/old", "old/old", "new/new", "reference"

_COMPARED = ((CROSS, OLD), (NEW, OLD), (REFERENCE, OLD), (NEW, REFERENCE))


class Gain(NamedTuple):
    """The update gain, or why there is none."""

    value: float | None
    reason: str | None


def differences(resampled: Resampled, roles: set[str], metrics: tuple[str, ...]) -> dict[str, dict[str, Estimate]]:
    """The paired differences that the roles at hand allow: {"new/old - old/old": {metric: estimate}, …}."""
    return {
        f"{left} - {right}": {
            metric: resampled.estimate({Column(left, metric): 1.0, Column(right, metric): -1.0}) for metric in metrics
        }
        for left, right in _COMPARED
        if {left, right} <= roles
    }


def verdict(difference: Estimate) -> bool | None:
    """Of new/old − old/old: True when the interval lies above 0, False when it ends at or below 0, else None."""
    if difference.low is None or difference.high is None:
        return None
    if difference.low > 0:
        return True
    return False if difference.high <= 0 else None


def update_gain(cross: Estimate, reference: Estimate | None) -> Gain:
    """(M(new, old) − M(old, old)) / (M(reference, reference) − M(old, old)).

    Args:
        cross: The difference new/old − old/old.
        reference: The difference reference − old/old; None when no reference was evaluated.

    Returns:
        The gain only when the interval of the denominator lies above 0: otherwise it says nothing about the numerator.
    """
    if reference is None:
        return Gain(None, "no reference set was given")
    if reference.low is None or reference.high is None:
        return Gain(None, "without a bootstrap nothing says that the reference is better than old/old")
    if reference.low <= 0:
        return Gain(None, "the reference is not surely better than old/old")
    return Gain(cross.value / reference.value, None)


def sentence(metric: str, resampled: Resampled, difference: Estimate) -> str:
    """The verdict on one metric, in words."""
    cross = resampled.estimate({Column(CROSS, metric): 1.0}).value
    old = resampled.estimate({Column(OLD, metric): 1.0}).value
    scores = (
        f"{metric} of new/old {100 * cross:.1f} % against {100 * old:.1f} % of old/old, {100 * difference.value:+.1f}"
    )
    if difference.low is None or difference.high is None:
        return f"undecided: {scores} points, without an interval"
    scores += f" points (95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    decided = verdict(difference)
    if decided is None:
        return f"undecided: {scores}, which includes 0"
    return f"{'compatible' if decided else 'not compatible'}: {scores}"
