"""What average precision is on average when tied rows come in random order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featstore.evaluate.counts import RankCounts

__all__ = ["expected_average_precision"]


def expected_average_precision(counts: RankCounts) -> NDArray[np.float64]:
    """The expected AP of each query under a uniformly random order within every group of equal scores.

    A group of n rows, r of them relevant, behind c rows with h hits, contributes
    Σ_{i=1..n} (r/n)·(h + 1 + (i−1)(r−1)/(n−1)) / (c+i): its i-th place holds a hit with probability r/n, and then the
    i−1 places before it hold (i−1)(r−1)/(n−1) hits on average.

    Returns:
        float64 [Q]; NaN for queries without positives. Equal to AP where nothing is tied.
    """
    query, hits, ranks = counts.query, counts.hits, counts.ranks("best")
    n_positives = counts.n_positives
    terms = hits / ranks
    first_in_group = np.ones(len(query), bool)
    first_in_group[1:] = (query[1:] != query[:-1]) | (counts.scores[1:] != counts.scores[:-1])
    starts = np.flatnonzero(first_in_group)
    sizes = np.diff(np.append(starts, len(query)))
    tied = counts.equal[starts] > 0
    for start, relevant in zip(starts[tied], sizes[tied], strict=True):
        n = int(counts.equal[start]) + int(relevant)
        place = np.arange(n)
        hits_before = hits[start] - 1 + place * ((relevant - 1) / (n - 1))
        terms[start : start + relevant] = 0.0
        terms[start] = float(np.sum((hits_before + 1) / (ranks[start] + place))) * relevant / n
    with np.errstate(invalid="ignore"):
        return np.bincount(query, terms, minlength=len(n_positives)) / n_positives
