"""A way to ship a new model: what it costs, and what an evaluation found of it.

B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.evaluate import Column, Estimated, EvalResult
from featstore.evaluate.compatibility import verdict
from featstore.report import PlanPath
from featstore.report.plan import Kind

__all__ = ["Measured", "measured", "unmeasured"]

_TODAY = "old/old"
_NOTHING = Estimated(value=0.0, low=None, high=None)


@dataclass(frozen=True, slots=True)
class Measured:
    """A way, and the means of its headline metric over the resamples that all ways share, [B]."""

    path: PlanPath
    resamples: NDArray[np.float64]


def unmeasured(
    name: str,
    title: str,
    kind: Kind,
    *,
    at_query_time: str,
    encoders: int = 1,
    seconds: float = 0.0,
    gallery_bytes: int = 0,
    images: int = 0,
    commands: tuple[str, ...] = (),
) -> PlanPath:
    """A way of which only the costs are known yet."""
    return PlanPath(
        name=name,
        title=title,
        kind=kind,
        value=_NOTHING,
        change=_NOTHING,
        compatible=None,
        metrics={},
        seconds=seconds,
        gallery_bytes=gallery_bytes,
        images=images,
        at_query_time=at_query_time,
        encoders=encoders,
        commands=commands,
    )


def measured(path: PlanPath, result: EvalResult, role: str, metrics: dict[str, float]) -> Measured:
    """The way whose queries are those of a cell or of a point of a curve, paired with today's.

    Args:
        path: What it is and costs.
        result: Has the role, and `old/old`.
        role: Which queries on which gallery.
        metrics: Means of all metrics.
    """
    resampled = result.evidence.resampled
    now, then = Column(role, result.headline), Column(_TODAY, result.headline)
    found = path.model_copy(update={"value": Estimated.of(resampled.estimate({now: 1.0})), "metrics": metrics})
    if role != _TODAY:
        change = resampled.estimate({now: 1.0, then: -1.0})
        found = found.model_copy(
            update={"change": Estimated.of(change), "compatible": None if result.protocol.is_proxy else verdict(change)}
        )
    return Measured(found, resampled.means[:, resampled.columns.index(now)])
