"""What was measured in one run, before anything follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from featstore.evaluate import compatibility

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featstore.evaluate.arrays import PerQuery
    from featstore.evaluate.cells import CellPlan, Sides
    from featstore.evaluate.measure import CellMeasure
    from featstore.evaluate.protocols import Problem
    from featstore.evaluate.records import Distribution, ThresholdTransfer

__all__ = ["Curve", "Measured", "Serving", "curve_ends", "two_index_ends"]

Serving = Literal["one index", "two indexes"]
"""Whether rows of both models stand in one index during a backfill, or each in that of its model."""


class Curve(NamedTuple):
    """A backfill curve of one run.

    Attributes:
        order: In which order rows are backfilled.
        serving: How the gallery is searched meanwhile.
        start: The cell at 0.
        end: The cell at 1.
        shares: Where the points are.
        points: Every query's values by metric, at the points between.
    """

    order: str
    serving: Serving
    start: str
    end: str
    shares: tuple[float, ...]
    points: list[dict[str, NDArray[np.float64]]]

    @property
    def label(self) -> str:
        """What it is called."""
        return self.order if self.serving == "one index" else f"{self.order}, {self.serving}"


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: every query's values in every cell.

    Attributes:
        sides: The sets and maps.
        measure: How cells are measured.
        plans: The cells that were measured, by role.
        unrelated: Whether nothing declares a cell's spaces comparable, by role.
        left_out: Why a cell was not measured, by role.
        problem: Rows, classes and ground truth.
        metrics: The protocol's headline metric first.
        per_query: Values by role.
        curves: Backfill curves.
        thresholds: Operating points kept through the upgrade.
        distributions: Scores of all pairs, by role.
    """

    sides: Sides
    measure: CellMeasure
    plans: dict[str, CellPlan]
    unrelated: dict[str, bool]
    left_out: dict[str, str]
    problem: Problem
    metrics: tuple[str, ...]
    per_query: dict[str, PerQuery]
    curves: list[Curve] = field(default_factory=list)
    thresholds: list[ThresholdTransfer] = field(default_factory=list)
    distributions: dict[str, Distribution] = field(default_factory=dict)


def curve_ends(plans: dict[str, CellPlan]) -> tuple[CellPlan | None, CellPlan | None]:
    """The cells at which a backfill begins and ends: the same queries, on the gallery as it is and on their own."""
    own = [role for role in plans if compatibility.is_own(role)]
    end = plans[own[-1]] if own else None
    # a map of the gallery is what is deployed when one was given
    started = [role for role in ("new/mapped-old", compatibility.subject_of(plans)) if role in plans]
    start = next((plans[role] for role in started if end and plans[role].query == end.query), None)
    return start, end


def two_index_ends(plans: dict[str, CellPlan]) -> tuple[CellPlan | None, CellPlan | None]:
    """The cells at which a backfill with two indexes begins and ends: each gallery searched by queries of its own kind."""
    own = [role for role in plans if compatibility.is_own(role)]
    if len(own) < 2:
        return None, None
    searched = [role for role in ("mapped-new/old", own[0]) if role in plans]
    return plans[searched[0]], plans[own[-1]]
