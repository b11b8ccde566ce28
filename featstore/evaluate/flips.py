"""Queries that an upgrade breaks, and those it repairs.

A query is right when a right answer is among the first k. It flips negatively when it was right before and is wrong
after. (Yan et al. 2021, "Positive-congruent training", for classifiers; Zhang et al. 2022, "Hot-refresh model upgrades",
for retrieval.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["negative_flips", "positive_flips", "relative_rate"]


def negative_flips(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a query was right and is wrong now, else 0.

    Args:
        before: 1 where the query was right, [Q]; NaN where it does not count.
        after: The same afterwards.

    Returns:
        float64 [Q]; its mean is the negative flip rate (NFR).
    """
    return before * (1 - after)


def positive_flips(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a query was wrong and is right now, else 0; see `negative_flips`."""
    return (1 - before) * after


def relative_rate(
    flips: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Relative NFR: NFR / ((1 − ER_before)·ER_after), where ER is the error rate.

    1 is what two models with these error rates would have if their errors were independent; 0 where there is nothing to
    flip.

    Args:
        flips: Negative flip rates, of any shape.
        before: Shares of right queries before, of that shape.
        after: Shares of right queries afterwards.
    """
    independent = before * (1 - after)
    return np.divide(flips, independent, out=np.zeros_like(independent), where=independent > 0)
