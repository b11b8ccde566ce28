"""The decision report: on a team's own caches, what every cheap way to ship a new model gives and costs.

Each map is learned on some rows and measured on others, and every number is paired with today's (old queries on the old
gallery) over the same resamples of classes and queries, so that differences between ways have intervals too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from pydantic import ValidationError

import featstore
from featstore.errors import FeatstoreError, UsageError
from featstore.evaluate import Backfill, Column, Estimated, EvalRequest, EvalResult, evaluate
from featstore.maps import load_map, map_block
from featstore.progress import SILENT, Progress
from featstore.report import Plan, PlanPath
from featstore.runs import read_card
from featstore.store import FeatureSet, Store, common_rows
from featstore.strict import Strict
from featstore.whole_files import write_whole
from featstore_training.upgrade.candidates import Candidate, candidates, learn
from featstore_training.upgrade.plan_rows import PlanRows, choose_plan_rows
from featstore_training.upgrade.recommend import recommend

__all__ = ["PlanRequest", "make_plan"]

SHARES = (0.05, 0.1, 0.2, 0.5)
_ORDERS = ("random", "k-center", "prototype-distance")
_TIMED_ROWS = 4096
_KEPT = "plan.json"


class PlanRequest(Strict):
    """What to plan.

    Attributes:
        old: The feature set of the gallery.
        new: The feature set of the new model, over the same rows.
        side: Side-information, for maps that take it.
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
    where: tuple[str, ...] = ()
    query_where: tuple[str, ...] = ()
    gallery_where: tuple[str, ...] = ()
    train_where: tuple[str, ...] = ()
    budget: float = 0.2
    encoders: int = 1
    images_per_second: float | None = None
    only: tuple[str, ...] = ()
    bootstrap: int = 2000


@dataclass(frozen=True, slots=True)
class Measured:
    """A way, and the means of its headline metric over the resamples that all ways share, [B]."""

    path: PlanPath
    resamples: NDArray[np.float64]


def make_plan(store: Store, request: PlanRequest, folder: Path, *, progress: Progress = SILENT) -> Plan:
    """Try every cheap way and say which to take.

    The same call again goes on where it stopped, and returns a finished plan at once.

    Args:
        store: The store.
        request: What to plan.
        folder: Where run folders and lists of rows go; made if needed.
        progress: Told of every step.

    Raises:
        UsageError: no labels, no rows to learn on, or filters that leave nothing.
        AlignmentError: the sets belong to different datasets.
    """
    if not 0 <= request.budget <= 1:
        raise UsageError(f"a budget of {request.budget:g} is no share of the images", hint="give 0 to 1, or 20%")
    planner = _Planner(store, request, folder, progress)
    kept = folder / _KEPT
    finished = _Finished.read(kept)
    if finished is not None and finished.key == planner.key():
        progress.note(f"{folder} already holds this plan (cached)")
        return finished.plan
    plan = planner.plan()
    write_whole(kept, _Finished(key=planner.key(), plan=plan).model_dump_json(indent=1).encode())
    return plan


class _Finished(Strict):
    """A plan that was made, and of what."""

    what: ClassVar[str] = "finished plan"

    key: str
    plan: Plan

    @classmethod
    def read(cls, path: Path) -> _Finished | None:
        """What a folder holds; None for nothing, or something that another featstore wrote."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError, FeatstoreError):
            return None


class _Planner:
    def __init__(self, store: Store, request: PlanRequest, folder: Path, progress: Progress) -> None:
        self._began = time.monotonic()
        self._store = store
        self._request = request
        self._folder = folder
        self._progress = progress
        self._old = store.features(request.old)
        self._new = store.features(request.new)
        self._sides = [store.features(name) for name in request.side]
        common_rows([self._old, self._new, *self._sides])
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: PlanRows = choose_plan_rows(
            [self._old, self._new, *self._sides],
            folder,
            train_where=request.train_where,
            where=request.where,
            query_where=request.query_where,
            gallery_where=request.gallery_where,
        )
        self._gallery = len(self._old.valid_rows())
        self._left_out: dict[str, str] = {}

    def key(self) -> str:
        """Digest of everything that the plan depends on: the request, the sets, the rows, their labels, what is declared."""
        request, dataset = self._request, self._old.dataset
        sets = [self._old, self._new, *self._sides]
        digest = blake3(f"{featstore.__version__} {request.model_dump_json()}".encode())
        digest.update(" ".join(f"{item.record.uuid} {item.space.compatible_with}" for item in sets).encode())
        for where in (request.query_where, request.gallery_where):
            digest.update(dataset.select((*self._rows.where, *where)).tobytes())
        digest.update(self._rows.fitted.tobytes() + dataset.labels.codes.tobytes())
        return digest.hexdigest()

    def plan(self) -> Plan:
        """Everything, in the order that a reader wants it."""
        base = self._evaluate()
        ways = [self._today(base), *self._comparable(base)]
        runs: dict[str, Path] = {}
        for candidate in self._candidates():
            with self._or_left_out(candidate.name):
                runs[candidate.name] = learn(
                    self._store,
                    candidate,
                    self._folder,
                    old=self._old.ref,
                    new=self._new.ref,
                    where=self._rows.fit_where,
                    progress=_Quiet(self._progress, candidate.name),
                )
                ways.append(self._mapped(candidate, runs[candidate.name]))
        curves, start = self._curves(ways, runs)
        for curve, result in _worth_a_row(curves):
            ways += self._stages(curve, result, ways, start)
        ways.append(self._full(base))
        chosen, reason = recommend(
            ways, budget=self._request.budget, rows=self._gallery, encoders=self._request.encoders
        )
        cell = base.cell("old/old")
        return Plan(
            old=self._old.ref,
            new=self._new.ref,
            side=tuple(item.ref for item in self._sides),
            rows=self._gallery,
            headline=base.headline,
            budget=self._request.budget,
            encoders=self._request.encoders,
            images_per_second=self._request.images_per_second,
            paths=tuple(way.path for way in ways),
            recommended=chosen,
            reason=reason,
            curves=tuple(curve for curve, _ in curves),
            curves_from=start,
            left_out=self._left_out,
            fitted_rows=len(self._rows.fitted),
            queries=cell.n_queries,
            gallery=base.protocol.gallery.used,
            classes=base.protocol.classes,
            notes=(self._rows.note,),
            seconds=time.monotonic() - self._began,
        )

    def _candidates(self) -> list[Candidate]:
        found = candidates(self._old.ref, tuple(item.ref for item in self._sides))
        return [item for item in found if not self._request.only or item.name in self._request.only]

    def _evaluate(self, **changes: object) -> EvalResult:
        request = self._request
        asked = EvalRequest(
            old=self._old.ref,
            new=self._new.ref,
            where=self._rows.where,
            query_where=request.query_where,
            gallery_where=request.gallery_where,
            bootstrap=request.bootstrap,
            two_index=True,
        )
        return evaluate(self._store, asked.model_copy(update=changes), progress=_Quiet(self._progress, "measure"))

    @contextmanager
    def _or_left_out(self, name: str) -> Iterator[None]:
        try:
            yield
        except FeatstoreError as error:
            self._left_out[name] = error.message.partition("\n")[0]
            self._progress.note(f"{name} is left out: {error.message}")

    def _way(self, result: EvalResult, role: str, path: PlanPath) -> Measured:
        """A way whose queries are those of a cell."""
        resampled = result.evidence.resampled
        now, then = Column(role, result.headline), Column("old/old", result.headline)
        change = resampled.estimate({now: 1.0, then: -1.0}) if role != "old/old" else None
        means = resampled.means[:, resampled.columns.index(now)]
        found = path.model_copy(
            update={
                "value": Estimated.of(resampled.estimate({now: 1.0})),
                "change": Estimated.of(change) if change else _NOTHING,
                "compatible": _verdict(Estimated.of(change)) if change else None,
                "metrics": result.cell(role).metrics,
            }
        )
        return Measured(found, means)

    def _today(self, base: EvalResult) -> Measured:
        path = _path("today", "nothing changes", "today", at_query_time="old encoder")
        return self._way(base, "old/old", path)

    def _comparable(self, base: EvalResult) -> list[Measured]:
        """The new model as it is, where something declares it comparable."""
        if "new/old" not in {cell.role for cell in base.cells}:
            return []
        path = _path("as-it-is", "new queries on the old gallery", "queries", at_query_time="new encoder")
        return [self._way(base, "new/old", path)]

    def _full(self, base: EvalResult) -> Measured:
        path = _path(
            "full-backfill",
            "every image encoded again",
            "full",
            at_query_time="new encoder",
            images=self._gallery,
            gallery_bytes=self._bytes(self._gallery, self._new.width, self._new),
            commands=(
                f"featstore extract IMAGES --dataset {self._old.dataset.name} --model {self._new.record.name}=MODEL",
            ),
        )
        return self._way(base, "new/new", path)

    def _mapped(self, candidate: Candidate, run: Path) -> Measured:
        option = "gallery_map" if candidate.of_gallery else "query_map"
        result = self._evaluate(**{option: run, "side": candidate.side, "two_index": False})
        role = "new/mapped-old" if candidate.of_gallery else "mapped-new/old"
        learned = float(read_card(run).training.get("seconds", 0.0))
        rewritten = self._gallery if candidate.of_gallery else 0
        encoder = "both encoders, map" if candidate.encoders > 1 else "new encoder"
        path = _path(
            candidate.name,
            candidate.title,
            "gallery" if candidate.of_gallery else "queries",
            at_query_time=encoder if candidate.of_gallery or candidate.encoders > 1 else f"{encoder}, map",
            encoders=candidate.encoders,
            seconds=learned + (self._seconds_to_map(run, candidate) if candidate.of_gallery else 0.0),
            gallery_bytes=self._bytes(rewritten, self._new.width, None),
            commands=self._commands(candidate),
        )
        return self._way(result, role, path)

    def _seconds_to_map(self, run: Path, candidate: Candidate) -> float:
        """How long the whole gallery takes, from some of its rows."""
        rows = self._old.valid_rows()[:_TIMED_ROWS]
        sets = [self._old, *(self._sides if candidate.side else [])]
        block = np.concatenate([item.gather(rows) for item in sets], axis=1, dtype=np.float32)
        module = load_map(run).module
        began = time.perf_counter()
        map_block(module, block)
        return (time.perf_counter() - began) * self._gallery / len(rows)

    def _commands(self, candidate: Candidate) -> tuple[str, ...]:
        side = "".join(f" --side {_plain(name)}" for name in candidate.side) if candidate.of_gallery else ""
        direction = "" if candidate.needs_labels or candidate.loss == "fct" else f" --direction {candidate.direction}"
        out = f"runs/{candidate.name}"
        train = (
            f"featstore train --loss {candidate.loss} --old {self._old.name} --new {self._new.name}{side}{direction}"
        )
        option = "map" if candidate.of_gallery else "query-map"
        beside = "".join(f" --side {_plain(name)}" for name in candidate.side)
        served = f"{self._old.dataset.name}/gallery --old {self._old.name} --new {self._new.name}"
        return (f"{train} --out {out}", f"featstore upgrade run {served} --{option} {out}{beside}")

    # --- partial backfill ------------------------------------------------------------------------------------------

    def _curves(
        self, ways: list[Measured], runs: dict[str, Path]
    ) -> tuple[list[tuple[Backfill, EvalResult]], str | None]:
        """Curves from the best mapped gallery on, and with two indexes, which need no map."""
        found: list[tuple[Backfill, EvalResult]] = []
        mapped = [way.path for way in ways if way.path.kind == "gallery"]
        best = max(mapped, key=lambda path: path.value.value).name if mapped else None
        if best is not None:
            side = next(item.side for item in self._candidates() if item.name == best)
            with self._or_left_out("backfill"):
                result = self._evaluate(
                    gallery_map=runs[best], side=side, two_index=False, backfill=_ORDERS, backfill_shares=SHARES
                )
                found += [(curve, result) for curve in result.backfill]
        with self._or_left_out("two indexes"):
            result = self._evaluate(backfill=("random",), backfill_shares=SHARES)
            found += [(curve, result) for curve in result.backfill if curve.serving == "two indexes"]
        return found, best

    def _stages(self, curve: Backfill, result: EvalResult, ways: list[Measured], start: str | None) -> list[Measured]:
        """The ways that stop part of the way."""
        two = curve.serving == "two indexes"
        base = None if two or start is None else next(way.path for way in ways if way.path.name == start)
        found = []
        for place, share in enumerate(curve.fractions[1:-1], 1):
            images = int(share * self._gallery + 1e-9)
            role = f"backfill by {curve.label}, step {place}"
            extra = self._bytes(images, self._new.width, self._new)
            percent = f"{100 * share:g} %"
            served = f"{self._old.dataset.name}/gallery --old {self._old.name} --new {self._new.name}"
            partly = f"--backfill {100 * share:g}% --by {curve.order}"
            path = _path(
                f"{'two-indexes' if two else start}+{100 * share:g}%",
                f"{percent} in a second index, {curve.order}"
                if two
                else f"{start}, {percent} backfilled, {curve.order}",
                "two indexes" if two else "backfill",
                at_query_time="both encoders, two indexes" if two else "new encoder",
                encoders=2 if two else 1,
                seconds=base.seconds if base else 0.0,
                gallery_bytes=extra if base is None else base.gallery_bytes,
                images=images,
                commands=()
                if base is None
                else (
                    base.commands[0],
                    f"featstore upgrade run {served} --map runs/{start}{_sides(base)} {partly}",
                ),
            )
            estimated = curve.metrics[result.headline][place]
            resampled = result.evidence.resampled
            now, then = Column(role, result.headline), Column("old/old", result.headline)
            change = Estimated.of(resampled.estimate({now: 1.0, then: -1.0}))
            path = path.model_copy(
                update={
                    "value": estimated,
                    "change": change,
                    "compatible": _verdict(change),
                    "metrics": {metric: points[place].value for metric, points in curve.metrics.items()},
                }
            )
            found.append(Measured(path, resampled.means[:, resampled.columns.index(now)]))
        return found

    def _bytes(self, rows: int, width: int, stored: FeatureSet | None) -> int:
        """Bytes of features; maps put out float32."""
        return rows * width * (stored.dtype.itemsize if stored else 4)


class _Quiet:
    """Passes on what a step is doing, under the name of the step."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def start(self, task: str, total: int, unit: str, *, done: int = 0) -> None:
        """A task of the step."""
        self._progress.start(f"{self._name}: {task}", total, unit, done=done)

    def advance(self, n: int) -> None:
        """Work done."""
        self._progress.advance(n)

    def note(self, message: str) -> None:
        """Notes of single steps stand in their cards."""


_NOTHING = Estimated(value=0.0, low=None, high=None)


def _path(
    name: str,
    title: str,
    kind: str,
    *,
    at_query_time: str,
    encoders: int = 1,
    seconds: float = 0.0,
    gallery_bytes: int = 0,
    images: int = 0,
    commands: tuple[str, ...] = (),
) -> PlanPath:
    """A way that is not measured yet."""
    return PlanPath.model_validate(
        {
            "name": name,
            "title": title,
            "kind": kind,
            "value": _NOTHING,
            "change": _NOTHING,
            "compatible": None,
            "metrics": {},
            "seconds": seconds,
            "gallery_bytes": gallery_bytes,
            "images": images,
            "at_query_time": at_query_time,
            "encoders": encoders,
            "commands": commands,
        }
    )


def _worth_a_row(curves: list[tuple[Backfill, EvalResult]]) -> list[tuple[Backfill, EvalResult]]:
    """Of the orders of one index the one with the largest area, and two indexes."""
    one = [found for found in curves if found[0].serving == "one index"]
    best = max(one, key=lambda found: found[0].area_trapezoid[found[1].headline].value, default=None)
    return [found for found in curves if found is best or found[0].serving == "two indexes"]


def _verdict(change: Estimated) -> bool | None:
    if change.low is None or change.high is None:
        return None
    return True if change.low > 0 else False if change.high <= 0 else None


def _plain(reference: str) -> str:
    return reference.partition("@")[0]


def _sides(path: PlanPath) -> str:
    """The options of side-information in the commands of a mapped gallery."""
    words = path.commands[0].split()
    return "".join(f" --side {words[place + 1]}" for place, word in enumerate(words) if word == "--side")
