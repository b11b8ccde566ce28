"""What to evaluate, as data, and which cells that means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from featstore.errors import UsageError
from featstore.evaluate.blocking import DEFAULT_MAX_MEMORY
from featstore.evaluate.cells import CellPlan, Side
from featstore.evaluate.compatibility import CANDIDATE
from featstore.evaluate.metrics import metric_info
from featstore.evaluate.scores import ScoreKind
from featstore.ray_pool import Engine

__all__ = ["EvalRequest"]

_FORMS = (
    "`featstore eval --old SET --new SET [--reference SET]`, `featstore eval --generations SET SET …`, "
    "or `featstore eval --query SET --gallery SET`"
)


class EvalRequest(BaseModel):
    """What to evaluate: the roles of an upgrade, a chain of generations, or one query set against one gallery set.

    Attributes:
        old: The set the gallery is made of now.
        new: The set that is to replace or search it.
        reference: The unconstrained reference: the new model without compatibility.
        generations: The sets of an upgrade chain, oldest first; at least two.
        candidate: The gallery that is to be shipped, searched by the new model: adds `new/candidate`.
        query_map: Run folder of a map from the new set's space to the old one's: adds `mapped-new/old`.
        gallery_map: Run folder of a map from the old set's space to the new one's: adds `new/mapped-old`.
        side: Side-information that the gallery's map takes, in its order; without one, that the queries' map takes.
        query: Queries of a single cell.
        gallery: Gallery of a single cell.
        where: Filters for all rows, see `Dataset.select`.
        query_where: Further filters for queries.
        gallery_where: Further filters for gallery rows.
        backfill: Orders in which the old gallery is backfilled, see `row_orders`; each gives a curve.
        backfill_steps: Steps of a backfill.
        backfill_shares: Shares of the gallery at which to measure instead, ascending, between 0 and 1.
        two_index: Draw each curve also for two indexes whose answers are merged by distance.
        fpr: False-positive rates whose score thresholds are followed through the upgrade, in [0, 1].
        thresholds: Score thresholds in use today whose rate is kept, in [-1, 1].
        protocol: Name from the protocol registry.
        ground_truth: A file that says what answers what, for protocols that need one.
        distractors: A dataset whose sets of the same names are appended to every gallery; its rows answer nothing.
        score: What ranks: `cosine`, `inner` or `euclidean`.
        widths: What to do with sets of different widths: refuse, truncate to the smaller, or pad with zeros.
        metrics: Names from the metric registry; none for those of the protocol, whose headline is always added.
        further_metrics: Names to be added to these.
        max_memory: Bytes that the evaluation may take beside what the process holds already.
        workers: Processes that divide the gallery.
        engine: Where they are: on this machine, or actors of a Ray cluster (`RAY_ADDRESS`, else on this machine).
        cache: Take cells that were measured before from the user's cache, and keep those that were not.
        allow_unrelated: Compare sets whose spaces nothing declares comparable, and mark the cell.
        bootstrap: Resamples for the intervals; 0 for none.
        seed: Of the resampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    old: str | None = None
    new: str | None = None
    reference: str | None = None
    generations: tuple[str, ...] = ()
    candidate: str | None = None
    query_map: Path | None = None
    gallery_map: Path | None = None
    side: tuple[str, ...] = ()
    query: str | None = None
    gallery: str | None = None
    where: tuple[str, ...] = ()
    query_where: tuple[str, ...] = ()
    gallery_where: tuple[str, ...] = ()
    backfill: tuple[str, ...] = ()
    backfill_steps: int = Field(default=5, ge=1)
    backfill_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    two_index: bool = False
    fpr: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    protocol: str = "retrieval"
    ground_truth: Path | None = None
    distractors: str | None = None
    score: ScoreKind = "cosine"
    widths: Literal["refuse", "truncate", "pad"] = "refuse"
    metrics: tuple[str, ...] = ()
    further_metrics: tuple[str, ...] = ()
    max_memory: int = Field(default=DEFAULT_MAX_MEMORY, gt=0)
    workers: int = Field(default=1, ge=1)
    engine: Engine = "local"
    cache: bool = True
    allow_unrelated: bool = False
    bootstrap: int = Field(default=2000, ge=0)
    seed: int = 0

    @property
    def inner_shares(self) -> tuple[float, ...]:
        """The shares between 0 and 1 at which a backfill is measured."""
        steps = self.backfill_steps
        return tuple(sorted(set(self.backfill_shares))) or tuple(step / steps for step in range(1, steps))

    def models(self) -> dict[str, str]:
        """The models of an upgrade by what roles call them, oldest first: `old` and `new`, or `v1`, `v2` and so on."""
        if self.generations:
            return {f"v{number}": ref for number, ref in enumerate(self.generations, 1)}
        return {name: ref for name, ref in (("old", self.old), ("new", self.new)) if ref}

    def cells(self) -> list[CellPlan]:
        """The cells this asks for, in the order they are reported.

        A role names the query's model, then the gallery's: `new/old`, and for generations `v2/v1`. Newer queries search
        older galleries, never the other way round. `reference` searches itself; `query/gallery` is a single pair.

        Raises:
            UsageError: No cell, or forms mixed.
            UnknownNameError: A metric nobody knows.
        """
        for metric in (*self.metrics, *self.further_metrics):
            metric_info(metric)
        self._check_form()
        if self.query and self.gallery:
            return [CellPlan("query/gallery", Side(self.query), Side(self.gallery))]
        models = self.models()
        dispensable = self.two_index or any((self.candidate, self.query_map, self.gallery_map))
        cells = [
            CellPlan(
                f"{newer}/{older}", Side(models[newer]), Side(models[older]), optional=dispensable and newer != older
            )
            for place, newer in enumerate(models)
            for older in list(models)[: place + 1]
        ]
        if self.query_map:
            beside = () if self.gallery_map else self.side
            cells.insert(
                -1, CellPlan("mapped-new/old", Side(models["new"], self.query_map, beside), Side(models["old"]))
            )
        if self.gallery_map:
            cells.insert(
                -1, CellPlan("new/mapped-old", Side(models["new"]), Side(models["old"], self.gallery_map, self.side))
            )
        if self.candidate:
            query = Side(models["new"], self.query_map, () if self.gallery_map or not self.query_map else self.side)
            role = f"{'mapped-' if self.query_map else ''}new/{CANDIDATE}"
            cells.insert(-1, CellPlan(role, query, Side(self.candidate)))
        if self.reference:
            cells.append(CellPlan("reference", Side(self.reference), Side(self.reference)))
        return cells

    def _check_form(self) -> None:
        pair = {"--query": self.query, "--gallery": self.gallery}
        upgrade = {"--old": self.old, "--new": self.new}
        maps = {"--candidate": self.candidate, "--query-map": self.query_map, "--gallery-map": self.gallery_map}
        chain = {"--generations": self.generations}
        pair_given, upgrade_given, maps_given, chain_given = (
            [option for option, value in options.items() if value] for options in (pair, upgrade, maps, chain)
        )
        others = [*upgrade_given, *chain_given, *maps_given, *(["--reference"] if self.reference else [])]
        if pair_given and others:
            raise UsageError(f"--query and --gallery do not go with {', '.join(others)}", hint=f"use {_FORMS}")
        if len(pair_given) == 1:
            [missing] = set(pair) - set(pair_given)
            raise UsageError(f"{missing} is missing", hint="a set can be searched with itself: give it twice")
        if chain_given and (upgrade_given or maps_given):
            given = ", ".join([*upgrade_given, *maps_given])
            raise UsageError(f"--generations does not go with {given}", hint=f"use {_FORMS}")
        if len(self.generations) == 1:
            raise UsageError("one generation is no chain", hint="give at least two sets, oldest first")
        if self.side and not maps_given:
            raise UsageError("--side is read by a map", hint="name it: --gallery-map RUN or --query-map RUN")
        if maps_given and len(upgrade_given) < 2:
            raise UsageError(f"{maps_given[0]} needs --old and --new", hint="it is about these two")
        if self.protocol == "agreement" and self.distractors:
            raise UsageError(
                "--distractors does not go with --protocol agreement: the newest model would rank them as well",
                hint="leave --distractors out",
            )
        if not pair_given and not others:
            raise UsageError("nothing to evaluate: no feature set was named", hint=f"use {_FORMS}")
