"""How far the old rows of a class lie from their centre, stragglers left out.

C classes, N training rows, D old width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from featstore_training.old_rows import OldRows

__all__ = ["class_radii", "largest_usual"]

LEAST_ROWS = 4  # quartiles of fewer values mean nothing


def class_radii(old: OldRows, distance: Callable[[int, Tensor], Tensor], *, fences: bool) -> Tensor:
    """The largest distance of a row to its class centre, float32 [C]; NaN for a class of fewer than two rows.

    Args:
        old: Unit old rows.
        distance: Class code and rows [n, D] → distances [n].
        fences: Leave stragglers out, see `largest_usual`.
    """
    radii = torch.full((old.classes,), float("nan"))
    for code, members, rows in old.by_class():
        if len(members) > 1:
            distances = distance(code, rows)
            radii[code] = largest_usual(distances) if fences else distances.max()
    return radii


def largest_usual(distances: Tensor) -> Tensor:
    """The largest value within 1.5 interquartile ranges of the quartiles; of fewer than four values the largest."""
    if len(distances) < LEAST_ROWS:
        return distances.max()
    first, third = distances.quantile(torch.tensor([0.25, 0.75], dtype=distances.dtype))
    reach = 1.5 * (third - first)
    return distances[(distances >= first - reach) & (distances <= third + reach)].max()
