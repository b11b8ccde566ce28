"""What to plan, as data."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from featstore.strict import Strict

__all__ = ["PlanRequest"]


class PlanRequest(Strict):
    """What to plan.

    Attributes:
        old: The feature set of the gallery.
        new: The feature set of the new model, over the same rows.
        side: Side-information, for maps that take it.
        new_run: Run folder that made the new set, for maps that learn from the new model's classifier.
        where: Filters for all rows that are measured; none of any kind for half of the classes.
        query_where: Further filters for queries.
        gallery_where: Further filters for gallery rows.
        train_where: Rows that maps are learned on; None for those that are not measured.
        budget: Share of the gallery's images that may be encoded again.
        encoders: Encoders that may run on a query.
        images_per_second: How fast images are encoded.
        only: Names of the maps to try; none for all.
        bootstrap: Resamples.
    """

    what: ClassVar[str] = "plan"

    old: str
    new: str
    side: tuple[str, ...] = ()
    new_run: Path | None = None
    where: tuple[str, ...] = ()
    query_where: tuple[str, ...] = ()
    gallery_where: tuple[str, ...] = ()
    train_where: tuple[str, ...] = ()
    budget: float = 0.2
    encoders: int = 1
    images_per_second: float | None = None
    only: tuple[str, ...] = ()
    bootstrap: int = 2000
