"""Which way to take: the best that a budget allows, and of those that are not surely worse the one that costs least.

B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.report import PlanPath
from featstore.report.numbers import between, percent, points

__all__ = ["Way", "recommend"]


class Way(Protocol):
    """A way and the means of its headline metric over resamples that all ways share, [B]."""

    @property
    def path(self) -> PlanPath:
        """What it is and costs."""

    @property
    def resamples(self) -> NDArray[np.float64]:
        """Paired with those of every other way."""


def recommend(ways: Sequence[Way], *, budget: float, rows: int, encoders: int) -> tuple[str | None, str]:
    """The name of the way to take, and why; None when none is surely better than today.

    Args:
        ways: All that were measured.
        budget: Share of the images that may be encoded again.
        rows: Images of the whole gallery.
        encoders: Encoders that may run on a query.
    """
    most = int(budget * rows + 1e-9)
    allowed = [way for way in ways if way.path.images <= most and way.path.encoders <= encoders]
    better = [way for way in allowed if way.path.compatible is True]
    within = f"{100 * budget:g} % of the images encoded again and {_encoders(encoders)}"
    if not better:
        return None, (
            f"Within {within} no way is surely better than today. Do not switch yet: raise the budget, or look at more "
            "queries if many ways are undecided."
        )
    best = max(better, key=lambda way: way.path.value.value)
    level = [way for way in better if not _surely_below(way, best)]
    chosen = min(
        level, key=lambda way: (way.path.images, way.path.gallery_bytes, way.path.encoders, -way.path.value.value)
    )
    path, top = chosen.path, best.path
    said = f"{percent(path.value.value)} %, {points(path.change.value)} points {between(path.change)} against today"
    if chosen is best:
        return path.name, f"The best way within {within}: {said}."
    return path.name, (
        f"{said}. Within {within} the highest value is {percent(top.value.value)} % ({top.name}); that difference is "
        "inside the noise, and this way costs less."
    )


def _surely_below(way: Way, best: Way) -> bool:
    """Whether the 95 % interval of the paired difference lies below 0."""
    if not len(way.resamples):
        return way.path.value.value < best.path.value.value
    return bool(np.quantile(way.resamples - best.resamples, 0.975) < 0)


def _encoders(count: int) -> str:
    return "one encoder per query" if count == 1 else f"up to {count} encoders per query"
