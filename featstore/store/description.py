"""A feature set in numbers: how many rows are what, how long its vectors are, and how many each class has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featstore.store.features import FeatureSet, RowStatus

__all__ = ["SetDescription", "describe"]

_SAMPLED_ROWS = 1 << 16
_BINS = 10
_BLOCK_ROWS = 1 << 12


@dataclass(frozen=True, slots=True)
class SetDescription:
    """A feature set in numbers.

    Attributes:
        valid: Rows that have a feature.
        failed: Rows whose input could not be used.
        absent: Rows that nobody said anything about.
        removed: Rows that were removed from the dataset.
        classes: Valid rows of each class, largest class first, then by name.
        unlabelled: Valid rows without a class.
        norm_edges: Ends of the bins of Euclidean norms, one more than there are bins; empty without valid rows.
        norm_counts: Rows in each bin.
        norms_of: How many rows were measured: all valid ones, or as many spread evenly over them.
    """

    valid: int
    failed: int
    absent: int
    removed: int
    classes: tuple[tuple[str, int], ...]
    unlabelled: int
    norm_edges: tuple[float, ...]
    norm_counts: tuple[int, ...]
    norms_of: int


def describe(features: FeatureSet, *, sample: int = _SAMPLED_ROWS) -> SetDescription:
    """Count rows, classes and norms.

    Args:
        features: The set.
        sample: Measure the norms of at most so many rows.
    """
    rows = features.valid_rows()
    status = features.status()
    removed = features.dataset.removed_rows
    removed = removed[removed < features.rows]
    labels = features.dataset.labels
    counts = np.bincount(labels.codes[rows] + 1, minlength=len(labels.names) + 1)
    classes = [(name, int(count)) for name, count in zip(labels.names, counts[1:], strict=True) if count]
    chosen = rows if len(rows) <= sample else rows[np.linspace(0, len(rows) - 1, sample).astype(np.int64)]
    norms = np.zeros(len(chosen))
    for start in range(0, len(chosen), _BLOCK_ROWS):
        block = features.gather(chosen[start : start + _BLOCK_ROWS]).astype(np.float64)
        norms[start : start + len(block)] = np.linalg.norm(block, axis=1)
    histogram, edges = np.histogram(norms, bins=_BINS) if len(norms) else (np.zeros(0, np.int64), np.zeros(0))
    return SetDescription(
        valid=len(rows),
        failed=int((status == RowStatus.FAILED).sum()),
        absent=int((status == RowStatus.ABSENT).sum()) - len(removed),
        removed=len(removed),
        classes=tuple(sorted(classes, key=lambda item: (-item[1], item[0]))),
        unlabelled=int(counts[0]),
        norm_edges=tuple(edges.tolist()),
        norm_counts=tuple(histogram.tolist()),
        norms_of=len(chosen),
    )
