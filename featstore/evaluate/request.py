"""What to evaluate, as data, and which cells that means."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from featstore.errors import UsageError
from featstore.evaluate.metrics import metric_info

__all__ = ["CellPlan", "EvalRequest"]

_FORMS = "`featstore eval --old SET --new SET [--reference SET]`, or `featstore eval --query SET --gallery SET`"


class CellPlan(NamedTuple):
    """One cell: queries of one set against a gallery of another.

    Attributes:
        role: `old/old`, `new/old`, `new/new`, `reference` or `query/gallery`.
        query: Reference of the query set.
        gallery: Reference of the gallery set.
    """

    role: str
    query: str
    gallery: str


class EvalRequest(BaseModel):
    """What to evaluate: either the roles of an upgrade, or one query set against one gallery set.

    Attributes:
        old: The set the gallery is made of now.
        new: The set that is to replace or search it.
        reference: The unconstrained reference: the new model without compatibility.
        query: Queries of a single cell.
        gallery: Gallery of a single cell.
        where: Filters for all rows, see `Dataset.select`.
        query_where: Further filters for queries.
        gallery_where: Further filters for gallery rows.
        metrics: Names from the metric registry; the protocol's headline metric is always added.
        allow_unrelated: Compare sets whose spaces nothing declares comparable, and mark the cell.
        bootstrap: Resamples for the intervals; 0 for none.
        seed: Of the resampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    old: str | None = None
    new: str | None = None
    reference: str | None = None
    query: str | None = None
    gallery: str | None = None
    where: tuple[str, ...] = ()
    query_where: tuple[str, ...] = ()
    gallery_where: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("map", "map@r", "recall@1", "recall@5", "recall@10")
    allow_unrelated: bool = False
    bootstrap: int = Field(default=2000, ge=0)
    seed: int = 0

    def cells(self) -> list[CellPlan]:
        """The cells this asks for, in the order they are reported.

        Raises:
            UsageError: No cell, or the two forms mixed.
            UnknownNameError: A metric nobody knows.
        """
        for metric in self.metrics:
            metric_info(metric)
        roles = {"--old": self.old, "--new": self.new, "--reference": self.reference}
        given = [option for option, value in roles.items() if value]
        if self.query or self.gallery:
            if given:
                raise UsageError(f"--query and --gallery do not go with {', '.join(given)}", hint=f"use {_FORMS}")
            if not self.query or not self.gallery:
                missing = "--query" if self.gallery else "--gallery"
                raise UsageError(f"{missing} is missing", hint="a set can be searched with itself: give it twice")
            return [CellPlan("query/gallery", self.query, self.gallery)]
        cells = []
        if self.old:
            cells.append(CellPlan("old/old", self.old, self.old))
        if self.old and self.new:
            cells.append(CellPlan("new/old", self.new, self.old))
        if self.new:
            cells.append(CellPlan("new/new", self.new, self.new))
        if self.reference:
            cells.append(CellPlan("reference", self.reference, self.reference))
        if not cells:
            raise UsageError("nothing to evaluate: no feature set was named", hint=f"use {_FORMS}")
        return cells
