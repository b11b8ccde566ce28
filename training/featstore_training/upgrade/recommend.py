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
from featstore.report.plan import Basis

__all__ = ["Way", "recommend"]

_NO_VERDICT = (
    "Without labels nothing says whether the new model is better, so there is no verdict: the numbers are the share of the new "
    "model's own first answers that each way finds."
)
_NONE: dict[Basis, str] = {
    "labels": "Within {within} no way is surely better than today. Do not switch yet: raise the budget, or look at more "
    "queries if many ways are undecided.",
    "agreement": f"{_NO_VERDICT} Within {{within}} no way surely finds more of them than today's search does.",
}


class Way(Protocol):
    """A way and the means of its headline metric over resamples that all ways share, [B]."""

    @property
    def path(self) -> PlanPath:
        """What it is and costs."""

    @property
    def resamples(self) -> NDArray[np.float64]:
        """Paired with those of every other way."""


def recommend(
    ways: Sequence[Way], *, budget: float, rows: int, encoders: int, judged_by: Basis = "labels"
) -> tuple[str | None, str]:
    """The name of the way to take, and why; None when none is surely better than today.

    By agreement it is the way to look at first: the same rule, but what is surely higher need not be better.

    Args:
        ways: All that were measured.
        budget: Share of the images that may be encoded again.
        rows: Images of the whole gallery.
        encoders: Encoders that may run on a query.
        judged_by: What says which answers are right.
    """
    most = int(budget * rows + 1e-9)
    allowed = [way for way in ways if way.path.images <= most and way.path.encoders <= encoders]
    better = [way for way in allowed if way.path.change.low is not None and way.path.change.low > 0]
    within = f"{100 * budget:g} % of the images encoded again and {_encoders(encoders)}"
    if not better:
        return None, _NONE[judged_by].format(within=within)
    best = max(better, key=lambda way: way.path.value.value)
    level = [way for way in better if not _surely_below(way, best)]
    chosen = min(
        level, key=lambda way: (way.path.images, way.path.gallery_bytes, way.path.encoders, -way.path.value.value)
    )
    path, top = chosen.path, best.path
    said = f"{percent(path.value.value)} %, {points(path.change.value)} points {between(path.change)} against today"
    if judged_by == "agreement":
        said = f"{_NO_VERDICT} If the new model is the better one, look at {path.name} first. It finds {said}"
    if chosen is best:
        return path.name, f"{said}; no way within {within} has more."
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
