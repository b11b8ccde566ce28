"""What a plan of an upgrade says, as JSON holds it: every way that was tried, what it gives and what it costs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from featstore.evaluate import Backfill, Estimated

__all__ = ["Basis", "Kind", "Plan", "PlanPath"]

Basis = Literal["labels", "agreement"]
Kind = Literal["today", "queries", "gallery", "backfill", "two indexes", "full"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanPath(_Record):
    """One way to ship the new model.

    Attributes:
        name: Its short name.
        title: What is done.
        kind: `today`; `queries` through a map; the `gallery` through one; `backfill` of a part; `two indexes`; `full`.
        value: The headline metric of users' queries then.
        change: Its paired difference from today.
        compatible: Whether the interval of that lies above 0 (True), at or below (False), or neither. None without labels.
        metrics: Means of all metrics.
        seconds: Time of learning it and of mapping the whole gallery, here.
        gallery_bytes: Bytes of gallery features that are rewritten, for the whole gallery.
        images: Images that are encoded again, for the whole gallery.
        at_query_time: What runs on every query.
        encoders: How many encoders that is.
        commands: What does it, one command each.
    """

    name: str
    title: str
    kind: Kind
    value: Estimated
    change: Estimated
    compatible: bool | None
    metrics: dict[str, float]
    seconds: float
    gallery_bytes: int
    images: int
    at_query_time: str
    encoders: int
    commands: tuple[str, ...] = ()


class Plan(_Record):
    """The decision report of an upgrade.

    Attributes:
        old: The old set, with its version.
        new: The new set.
        side: Side-information.
        rows: Rows of the whole gallery.
        judged_by: What says which answers are right: `labels`, or without them `agreement` with the new model's own ranking.
        headline: The metric that decides.
        budget: Share of the gallery's images that may be encoded again.
        encoders: Encoders that may run on a query.
        images_per_second: How fast images are encoded; None where nobody said.
        paths: Every way, today's first.
        recommended: Name of the one to take; None if none is surely better than today, and without labels.
        nearest: Without labels, the name of the one that the same rule picks by agreement; None if it picks none.
        reason: Why, in one or two sentences.
        curves: Backfill curves, beginning with a mapped gallery or with two indexes.
        curves_from: What the curves of one index begin with; None without one.
        left_out: What was not measured, and why, by name.
        fitted_rows: Rows that maps were learned on.
        queries: Queries that count.
        gallery: Gallery rows they search.
        classes: Classes of the queries.
        notes: What a reader has to know.
        seconds: Wall time of this run.
    """

    old: str
    new: str
    side: tuple[str, ...]
    rows: int
    judged_by: Basis
    headline: str
    budget: float
    encoders: int
    images_per_second: float | None
    paths: tuple[PlanPath, ...]
    recommended: str | None
    nearest: str | None
    reason: str
    curves: tuple[Backfill, ...]
    curves_from: str | None
    left_out: dict[str, str]
    fitted_rows: int
    queries: int
    gallery: int
    classes: int
    notes: tuple[str, ...]
    seconds: float

    @property
    def quality(self) -> str:
        """What is measured, as people read it."""
        return self.headline if self.judged_by == "labels" else "agreement"

    @property
    def lead(self) -> PlanPath | None:
        """The way to look at first."""
        name = self.recommended or self.nearest
        return self.path(name) if name else None

    def path(self, name: str) -> PlanPath:
        """The way of a name."""
        return next(path for path in self.paths if path.name == name)
