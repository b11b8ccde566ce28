"""Trying one way after another, each measured on the same queries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from blake3 import blake3

import featstore
from featstore.errors import FeatstoreError, UnknownNameError
from featstore.evaluate import Backfill, EvalRequest, EvalResult, evaluate
from featstore.evaluate.columns import curve_point
from featstore.evaluate.orders import K_CENTER, PROTOTYPE_DISTANCE, RANDOM, UNCERTAINTY
from featstore.maps import load_map, map_block, uncertainty_run
from featstore.progress import Named, Progress
from featstore.report import Plan, PlanPath
from featstore.runs import read_card
from featstore.store import FeatureSet, Store, common_rows
from featstore_training.upgrade.candidates import Candidate, candidates, learn
from featstore_training.upgrade.plan_commands import commands_of
from featstore_training.upgrade.plan_request import PlanRequest
from featstore_training.upgrade.plan_rows import PlanRows, choose_plan_rows
from featstore_training.upgrade.recommend import recommend
from featstore_training.upgrade.ways import Measured, measured, unmeasured

__all__ = ["Planner"]

SHARES = (0.05, 0.1, 0.2, 0.5)
_TIMED_ROWS = 4096
_NO_CLASSES = "it learns from classes, and the rows to learn on have none"
_NO_RUN = "it learns from the new model's classifier: name the run that made the new set with --new-run RUN"


class Planner:
    """Makes one plan; takes and raises what `make_plan` does."""

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
        self._candidates = self._worth_trying()
        self._taught_by = self._teachers_digest()

    def key(self) -> str:
        """Digest of everything that the plan depends on: the request, the sets, the rows, their labels, what is declared."""
        request, dataset = self._request, self._old.dataset
        digest = blake3(f"{request.model_dump_json()} {self._taught_by}".encode())
        for where in (self._rows.query_where, request.gallery_where):
            digest.update(dataset.select((*self._rows.where, *where)).tobytes())
        digest.update(dataset.labels.codes.tobytes())
        return digest.hexdigest()

    def _teachers_digest(self) -> str:
        """What stands for all that maps are learned from, so that a plan of other rows learns its own."""
        sets = [self._old, self._new, *self._sides]
        digest = blake3(f"{featstore.__version__} {self._request.new_run}".encode())
        digest.update(" ".join(f"{item.record.uuid} {item.space.compatible_with}" for item in sets).encode())
        digest.update(self._rows.fitted.tobytes() + self._old.dataset.labels.codes[self._rows.fitted].tobytes())
        return digest.hexdigest(length=8)

    def plan(self) -> Plan:
        """Everything, in the order that a reader wants it."""
        base = self._evaluate()
        ways = [self._today(base), *self._comparable(base)]
        runs: dict[str, Path] = {}
        for candidate in self._candidates:
            with self._or_left_out(candidate.name):
                runs[candidate.name] = learn(
                    self._store,
                    candidate,
                    self._folder / f"maps-{self._taught_by}",
                    old=self._old.ref,
                    new=self._new.ref,
                    where=self._rows.fit_where,
                    progress=Named(self._progress, candidate.name),
                )
                ways.append(self._mapped(candidate, runs[candidate.name]))
        curves, start = self._curves(ways, runs)
        for curve, result in _worth_a_row(curves):
            ways += self._stages(curve, result, ways, start)
        ways.append(self._full(base))
        judged_by = self._rows.judged_by
        chosen, reason = recommend(
            ways,
            budget=self._request.budget,
            rows=self._gallery,
            encoders=self._request.encoders,
            judged_by=judged_by,
        )
        cell = base.cell("old/old")
        return Plan(
            old=self._old.ref,
            new=self._new.ref,
            side=tuple(item.ref for item in self._sides),
            rows=self._gallery,
            judged_by=judged_by,
            headline=base.headline,
            budget=self._request.budget,
            encoders=self._request.encoders,
            images_per_second=self._request.images_per_second,
            paths=tuple(way.path for way in ways),
            recommended=chosen if judged_by == "labels" else None,
            nearest=None if judged_by == "labels" else chosen,
            reason=reason,
            curves=tuple(curve for curve, _ in curves),
            curves_from=start.name if start else None,
            left_out=self._left_out,
            fitted_rows=len(self._rows.fitted),
            queries=cell.n_queries,
            gallery=base.protocol.gallery.used,
            classes=base.protocol.classes,
            notes=(self._rows.note,),
            seconds=time.monotonic() - self._began,
        )

    def _worth_trying(self) -> list[Candidate]:
        """The maps that were asked for and that these rows can teach; of the others it is kept why not."""
        only, new_run = self._request.only, self._request.new_run
        found = candidates(self._old.ref, tuple(item.ref for item in self._sides), new_run)
        names = [item.name for item in found]
        for name in only:
            if name not in names:
                raise UnknownNameError("map of a plan", name, names, hint="fct-side takes --side, fastfill --new-run")
        wanted = [item for item in found if not only or item.name in only]
        if not self._rows.classes_to_learn:
            self._left_out |= {item.name: _NO_CLASSES for item in wanted if item.needs_labels}
        elif not only and new_run is None:
            self._left_out["fastfill"] = _NO_RUN
        return [item for item in wanted if item.name not in self._left_out]

    def _evaluate(self, **changes: object) -> EvalResult:
        request = self._request
        asked = EvalRequest(
            old=self._old.ref,
            new=self._new.ref,
            where=self._rows.where,
            query_where=self._rows.query_where,
            gallery_where=request.gallery_where,
            protocol="retrieval" if self._rows.judged_by == "labels" else "agreement",
            bootstrap=request.bootstrap,
            two_index=True,
        )
        return evaluate(self._store, asked.model_copy(update=changes), progress=Named(self._progress, "measure"))

    @contextmanager
    def _or_left_out(self, name: str) -> Iterator[None]:
        try:
            yield
        except FeatstoreError as error:
            self._left_out[name] = error.message.partition("\n")[0]
            self._progress.note(f"{name} is left out: {error.message}")

    def _today(self, base: EvalResult) -> Measured:
        path = unmeasured("today", "nothing changes", "today", at_query_time="old encoder")
        return _of_cell(path, base, "old/old")

    def _comparable(self, base: EvalResult) -> list[Measured]:
        """The new model as it is, where something declares it comparable."""
        if "new/old" not in {cell.role for cell in base.cells}:
            return []
        path = unmeasured("as-it-is", "new queries on the old gallery", "queries", at_query_time="new encoder")
        return [_of_cell(path, base, "new/old")]

    def _full(self, base: EvalResult) -> Measured:
        path = unmeasured(
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
        return _of_cell(path, base, "new/new")

    def _mapped(self, candidate: Candidate, run: Path) -> Measured:
        option = "gallery_map" if candidate.of_gallery else "query_map"
        result = self._evaluate(**{option: run, "side": candidate.side, "two_index": False})
        role = "new/mapped-old" if candidate.of_gallery else "mapped-new/old"
        learned = float(read_card(run).training.get("seconds", 0.0))
        rewritten = self._gallery if candidate.of_gallery else 0
        encoder = "both encoders, map" if candidate.encoders > 1 else "new encoder"
        path = unmeasured(
            candidate.name,
            candidate.title,
            "gallery" if candidate.of_gallery else "queries",
            at_query_time=encoder if candidate.of_gallery or candidate.encoders > 1 else f"{encoder}, map",
            encoders=candidate.encoders,
            seconds=learned + (self._seconds_to_map(run, candidate) if candidate.of_gallery else 0.0),
            gallery_bytes=self._bytes(rewritten, self._new.width, None),
            commands=self._commands(candidate),
        )
        return _of_cell(path, result, role)

    def _commands(self, candidate: Candidate, *partly: str) -> tuple[str, str]:
        return commands_of(candidate, self._old, self._new, self._rows, self._request.gallery_where, *partly)

    def _seconds_to_map(self, run: Path, candidate: Candidate) -> float:
        """How long the whole gallery takes, from some of its rows."""
        rows = self._old.valid_rows()[:_TIMED_ROWS]
        sets = [self._old, *(self._sides if candidate.side else [])]
        block = np.concatenate([item.gather(rows) for item in sets], axis=1, dtype=np.float32)
        module = load_map(run).module
        began = time.perf_counter()
        map_block(module, block)
        return (time.perf_counter() - began) * self._gallery / len(rows)

    # --- partial backfill ------------------------------------------------------------------------------------------

    def _curves(
        self, ways: list[Measured], runs: dict[str, Path]
    ) -> tuple[list[tuple[Backfill, EvalResult]], Candidate | None]:
        """Curves from the best mapped gallery on, and with two indexes, which need no map; and what maps that gallery."""
        found: list[tuple[Backfill, EvalResult]] = []
        values = {way.path.name: way.path.value.value for way in ways}
        mapped = [item for item in self._candidates if item.of_gallery and item.name in values]
        best = max(mapped, key=lambda item: values[item.name], default=None)
        if best is not None:
            with self._or_left_out("backfill"):
                result = self._evaluate(
                    gallery_map=runs[best.name],
                    side=best.side,
                    two_index=False,
                    backfill=self._orders(runs[best.name]),
                    backfill_shares=SHARES,
                )
                found += [(curve, result) for curve in result.backfill]
        with self._or_left_out("two indexes"):
            result = self._evaluate(backfill=(RANDOM,), backfill_shares=SHARES)
            found += [(curve, result) for curve in result.backfill if curve.serving == "two indexes"]
        return found, best

    def _orders(self, run: Path) -> tuple[str, ...]:
        """The orders that this gallery can be backfilled in."""
        by_class = (PROTOTYPE_DISTANCE,) if self._rows.judged_by == "labels" else ()
        return (RANDOM, K_CENTER, *by_class, *((UNCERTAINTY,) if uncertainty_run(run) else ()))

    def _stages(
        self, curve: Backfill, result: EvalResult, ways: list[Measured], start: Candidate | None
    ) -> list[Measured]:
        """The ways that stop part of the way."""
        found = []
        for place, share in enumerate(curve.fractions[1:-1], 1):
            images = int(share * self._gallery + 1e-9)
            percent = f"{100 * share:g}"
            if start is None or curve.serving == "two indexes":
                path = unmeasured(
                    f"two-indexes+{percent}%",
                    f"{percent} % in a second index, {curve.order}",
                    "two indexes",
                    at_query_time="both encoders, two indexes",
                    encoders=2,
                    gallery_bytes=self._bytes(images, self._new.width, self._new),
                    images=images,
                )
            else:
                mapped = next(way.path for way in ways if way.path.name == start.name)
                path = unmeasured(
                    f"{start.name}+{percent}%",
                    f"{start.name}, {percent} % backfilled, {curve.order}",
                    "backfill",
                    at_query_time="new encoder",
                    seconds=mapped.seconds,
                    gallery_bytes=mapped.gallery_bytes,
                    images=images,
                    commands=self._commands(start, f"--backfill {percent}%", f"--by {curve.order}"),
                )
            metrics = {metric: points[place].value for metric, points in curve.metrics.items()}
            found.append(measured(path, result, curve_point(curve.label, place), metrics))
        return found

    def _bytes(self, rows: int, width: int, stored: FeatureSet | None) -> int:
        """Bytes of features; maps put out float32."""
        return rows * width * (stored.dtype.itemsize if stored else 4)


def _of_cell(path: PlanPath, result: EvalResult, role: str) -> Measured:
    return measured(path, result, role, result.cell(role).metrics)


def _worth_a_row(curves: list[tuple[Backfill, EvalResult]]) -> list[tuple[Backfill, EvalResult]]:
    """Of the orders of one index the one with the largest area, and two indexes."""
    one = [found for found in curves if found[0].serving == "one index"]
    best = max(one, key=lambda found: found[0].area_trapezoid[found[1].headline].value, default=None)
    return [found for found in curves if found is best or found[0].serving == "two indexes"]
