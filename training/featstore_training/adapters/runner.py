"""`fit_adapter`: from two cached feature sets to a run folder. No image and no label is needed."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

import featstore
from featstore.errors import UsageError
from featstore.maps import UNCERTAINTY, FeatureMap, MapConfig, output_space, save_map
from featstore.progress import SILENT, Progress
from featstore.runs import RunCard
from featstore.spaces import Space
from featstore.store import FeatureSet, Store
from featstore_training.adapters.base import Adapter, Candidate, Classes, Pairs, Work
from featstore_training.adapters.classes import classes_of, open_new_run
from featstore_training.adapters.config import AdapterConfig, Direction
from featstore_training.adapters.held_out import HeldOut
from featstore_training.adapters.registry import build_adapter
from featstore_training.adapters.rows import AdapterRows, choose_adapter_rows
from featstore_training.checkpoint import RESUME
from featstore_training.column_cache import ColumnCache
from featstore_training.joined import JoinedColumns
from featstore_training.old_head import OldRun
from featstore_training.run_folder import finished_card, is_unfinished
from featstore_training.views import check_paired, view_sets

__all__ = ["AdapterReport", "fit_adapter"]


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What `fit_adapter` did. The run's card says the same and more.

    Attributes:
        folder: The run folder.
        loss: The method.
        direction: What it maps.
        cached: It held this very run already; nothing was computed.
        seconds: Time of this call.
        rows: Rows fitted on.
        validation_rows: Rows held out.
        missing: Rows left out because a set has no feature for them.
        query_time: What runs for every query: encoders, and the map.
        chosen: Settings that held-out retrieval decided.
        validation: `cross_test` of the mapped rows, and by labels `old_old` and `new_new`; of a map with uncertainty its
            rank correlation with the true error, `uncertainty_correlation`; empty without validation rows.
        selected_by: What counted as right in that: `labels` or `pairs`; None without validation rows.
        notes: What the user was told on the way.
    """

    folder: Path
    loss: str
    direction: Direction
    cached: bool
    seconds: float
    rows: int
    validation_rows: int
    missing: int
    query_time: list[str]
    chosen: dict[str, Any]
    validation: dict[str, float]
    selected_by: str | None
    notes: list[str]


class _Placed(TypedDict):
    """What a map is made of and between which spaces it stands."""

    config: MapConfig
    input_space: Space
    name: str
    compatible_with: tuple[str, ...]
    side_spaces: tuple[Space, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything that is fixed before anything is computed."""

    config: AdapterConfig
    method: Adapter
    direction: Direction
    old: FeatureSet
    new: FeatureSet
    sides: list[FeatureSet]
    rows: AdapterRows
    new_run: OldRun | None
    views: dict[str, tuple[FeatureSet, ...]]

    @property
    def source(self) -> FeatureSet:
        """What goes in."""
        return self.new if self.direction == "new-to-old" else self.old

    @property
    def target(self) -> FeatureSet:
        """What shall come out."""
        return self.old if self.direction == "new-to-old" else self.new

    @property
    def query_time(self) -> list[str]:
        """What runs for every query; the vector it gives is one."""
        if self.direction == "old-to-new":
            return ["new encoder"]
        return [*(["old encoder"] if self.method.takes_target else []), "new encoder", "map"]

    @property
    def request(self) -> dict[str, Any]:
        """Config and inputs as JSON: two runs with the same request are the same run."""
        config = self.config.model_dump(mode="json", exclude={"new", "old", "side", "new_run"})
        config |= {"direction": self.direction, "params": self.method.params.model_dump(mode="json")}
        sets = {"new": self.new, "old": self.old}
        inputs = {name: f"{item.ref} {item.record.uuid}" for name, item in sets.items()}
        beside: dict[str, Any] = {}
        if self.sides:
            beside["side"] = [f"{item.ref} {item.record.uuid}" for item in self.sides]
        if self.views:
            beside["views"] = [view.record.uuid for views in self.views.values() for view in views]
        if self.new_run:
            beside["new_classifier"] = self.new_run.digest
        return {"config": config, "inputs": {**inputs, **beside, "rows_and_labels": self.rows.digest()}}


def fit_adapter(store: Store, config: AdapterConfig, out: Path, *, progress: Progress = SILENT) -> AdapterReport:
    """Fit a map from the space of one model to that of another, and write it as a run folder.

    Rows that both models have encoded are all it needs. What a method has to choose, such as the strength of its
    regularisation, is chosen by retrieval on rows held out. The output space is declared compatible with the space it
    maps into. The same call on a finished folder returns at once.

    Args:
        store: Where the feature sets are.
        config: What to fit on what.
        out: The run folder.
        progress: Told of rows left out.

    Raises:
        UsageError, UnknownNameError: settings that cannot mean anything.
        NotFoundError: a feature set is not there.
        AlignmentError: the sets belong to different datasets.
        AlreadyExistsError: `out` holds another run or other files.
        TrainingError: nothing to fit on, or pairs that do not determine such a map.
    """
    started = time.perf_counter()
    out = Path(out)
    job = _prepare(store, config)
    if card := finished_card(out, job.request):
        progress.note(f"{out} already holds this run (cached)")
        return _report(out, card, cached=True, seconds=time.perf_counter() - started)
    is_unfinished(out, job.request)  # refuses a folder that holds something else
    held_out = _held_out(job)
    classes = classes_of(job.rows.fitted, job.old.dataset.labels, job.new_run) if "label" in job.method.needs else None
    notes = _notes(job, held_out, classes)
    for note in notes:
        progress.note(note)
    cache = ColumnCache()
    source, target, *sides = (
        cache.viewed(item, job.views.get(item.ref, ()), job.rows.fitted, unit=job.method.unit, seed=config.seed)
        for item in (job.source, job.target, *job.sides)
    )
    pairs = Pairs(JoinedColumns([source, *sides]) if sides else source, target, classes)

    def choose(candidates: Any) -> Candidate:
        if held_out is None:
            raise UsageError(
                f"'{config.loss}' chooses by retrieval on held-out rows, and there are none",
                hint="give --val-where, or --set val_fraction=0.1",
            )
        if job.method.takes_target and held_out.by == "pairs":
            raise UsageError(
                f"'{config.loss}' reads the other model's feature of a row, so every row would find itself",
                hint="it chooses by labels: give validation rows that have some",
            )
        chosen: Candidate = held_out.choose(candidates)
        return chosen

    work = Work(config.seed, out, job.request, tuple(item.width for item in job.sides), progress)
    found = job.method.fit(pairs, choose, work)
    validation = {} if held_out is None else {**held_out.as_json(), "cross_test": held_out.score(found.module)}
    if held_out and found.uncertainty:
        validation["uncertainty_correlation"] = held_out.doubt(found.module, found.uncertainty)
    training = {
        **job.request,
        "adapter": {"direction": job.direction, "chosen": found.settings, "query_time": job.query_time},
        "rows": job.rows.counts,
        "lineage": [{"name": job.target.space.name, "space": job.target.space.digest}],
        "validation": validation,
        "notes": notes,
        "seconds": round(time.perf_counter() - started, 3),
        "versions": {"featstore": featstore.__version__, "torch": torch.__version__},
    }
    placed: _Placed = {
        "config": found.module.config,
        "input_space": job.source.space,
        "name": out.name,
        "compatible_with": (job.target.space.digest,),
        "side_spaces": tuple(item.space for item in job.sides),
    }
    if found.uncertainty:
        _save_uncertainty(out, found.uncertainty, output_space(found.module, **placed), job.request)
    card = save_map(out, found.module, training=training, **placed)
    (out / RESUME).unlink(missing_ok=True)
    return _report(out, card, cached=False, seconds=time.perf_counter() - started)


def _save_uncertainty(out: Path, module: FeatureMap, space: Space, request: dict[str, Any]) -> None:
    """The way from the map's outputs to their uncertainty, as a run folder inside the run's."""
    shutil.rmtree(out / UNCERTAINTY, ignore_errors=True)  # a crash may have left one
    save_map(
        out / UNCERTAINTY,
        module,
        config=module.config,
        input_space=space,
        name=f"{out.name}.{UNCERTAINTY}",
        compatible_with=(),
        training={"inputs": request["inputs"]},
    )


def _prepare(store: Store, config: AdapterConfig) -> _Job:
    method = build_adapter(config.loss, config.params)
    direction = config.direction or method.directions[0]
    if direction not in method.directions:
        raise UsageError(
            f"'{config.loss}' maps {' or '.join(method.directions)}, not {direction}", hint="leave --direction out"
        )
    old, new = store.features(config.old), store.features(config.new)
    if config.side and not method.takes_side:
        raise UsageError(f"'{config.loss}' uses no side-information", hint="leave --side out")
    sides = [store.features(name) for name in config.side]
    if method.takes_target:
        sides.append(old if direction == "new-to-old" else new)
    new_run = open_new_run(method, config, new)
    views = _views(store, method, config, [old, new, *sides])
    seen = [view for views_of_set in views.values() for view in views_of_set]
    rows = choose_adapter_rows([old, new, *sides, *seen], config)
    return _Job(config, method, direction, old, new, sides, rows, new_run, views)


def _views(
    store: Store, method: Adapter, config: AdapterConfig, sets: list[FeatureSet]
) -> dict[str, tuple[FeatureSet, ...]]:
    """Cached views of every set, by the set's name; all of the same draws."""
    if not config.views:
        return {}
    if not method.takes_views:
        raise UsageError(f"'{config.loss}' is not trained step by step, so it sees no views", hint="leave --views out")
    views = {item.ref: view_sets(store, item, config.views) for item in sets}
    first, *others = views.values()
    for other in others:
        check_paired(first, other)
    return views


def _held_out(job: _Job) -> HeldOut | None:
    rows = job.rows.validation
    if len(rows) < 2:
        return None
    parts = [features.gather(rows) for features in (job.source, *job.sides)]
    return HeldOut(
        np.concatenate(parts, axis=1, dtype=np.float32),
        job.target.gather(rows),
        job.rows.labels,
        maps_queries=job.direction == "new-to-old",
        by=job.config.select_by,
        metric=job.config.metric,
        width=job.source.width,
    )


def _notes(job: _Job, held_out: HeldOut | None, classes: Classes | None) -> list[str]:
    notes = []
    if classes and (unknown := int((classes.label < 0).sum())):
        notes.append(f"{unknown} rows have no class that the method knows; terms with classes leave them out")
    if job.rows.missing:
        notes.append(f"{job.rows.missing} rows without a feature in every set are left out")
    if held_out is None:
        notes.append("no validation rows, so nothing says how good the map is")
    elif held_out.by == "pairs":
        notes.append("validation by pairs: a mapped row has to find itself among the rows of the other model")
    return notes


def _report(out: Path, card: RunCard, *, cached: bool, seconds: float) -> AdapterReport:
    made = card.training
    numbers = ("cross_test", "old_old", "new_new", "uncertainty_correlation")
    return AdapterReport(
        folder=out,
        loss=made["config"]["loss"],
        direction=made["adapter"]["direction"],
        cached=cached,
        seconds=seconds,
        rows=made["rows"]["fitted"],
        validation_rows=made["rows"]["validation"],
        missing=made["rows"]["missing"],
        query_time=made["adapter"]["query_time"],
        chosen=made["adapter"]["chosen"],
        validation={name: made["validation"][name] for name in numbers if name in made["validation"]},
        selected_by=made["validation"].get("by"),
        notes=made["notes"],
    )
