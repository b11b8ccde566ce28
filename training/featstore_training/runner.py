"""`train`: from cached features to a run folder. No image is read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from safetensors.torch import save

import featstore
from featstore.errors import TrainingError, UsageError
from featstore.evaluate import metric_info
from featstore.maps import build_map, save_map
from featstore.progress import SILENT, Progress
from featstore.runs import RunCard
from featstore.store import FeatureSet, Store
from featstore.whole_files import write_whole
from featstore_training import checkpoint, metrics_log
from featstore_training.batches import CachedColumn, TrainingRows
from featstore_training.checkpoint import TrainState
from featstore_training.config import TrainConfig
from featstore_training.heads import CosineSoftmax
from featstore_training.holdout import Rows, choose_rows
from featstore_training.loop import fit, make_optimizer
from featstore_training.objectives import ClassSide, Objective, find_objective
from featstore_training.run_folder import CLASSIFIER, finished_card, is_unfinished
from featstore_training.seeds import global_seed, tensor_generator
from featstore_training.selection import Validation
from featstore_training.strict import Strict

__all__ = ["TrainReport", "train"]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What `train` did. The run's card says the same and more.

    Attributes:
        folder: The run folder.
        cached: It held this very run already; nothing was computed.
        resumed_at: Epochs that earlier calls had finished.
        seconds: Time of this call.
        epoch: The epoch whose weights were kept, counted from 1.
        epochs: Epochs of the run.
        classes: Classes trained on.
        rows: Rows trained on.
        validation_rows: Rows held out.
        unlabelled: Rows left out because they have no label.
        missing: Rows left out because a set has no feature for them.
        validation: Of the epoch kept: `self_test`, `cross_test` (with an old set of the same width) and `score`, and the
            `old_old` and `reference_self` they are judged by; empty without validation rows.
        notes: What the user was told on the way.
    """

    folder: Path
    cached: bool
    resumed_at: int
    seconds: float
    epoch: int
    epochs: int
    classes: int
    rows: int
    validation_rows: int
    unlabelled: int
    missing: int
    validation: dict[str, float]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything that is fixed before anything is computed."""

    config: TrainConfig
    method: type[Objective]
    params: Strict
    new: FeatureSet
    old: FeatureSet | None
    width: int
    rows: Rows

    @property
    def request(self) -> dict[str, Any]:
        """Config and inputs as JSON: two runs with the same request are the same run."""
        config = self.config.model_dump(mode="json", exclude={"new", "old"})
        config |= {"width": self.width, "params": self.params.model_dump(mode="json")}
        digest = blake3()
        for array in (self.rows.train, self.rows.validation, self.rows.train_labels, self.rows.validation_labels):
            digest.update(np.int64(len(array)).tobytes() + array.tobytes())
        digest.update("\0".join(self.rows.class_names).encode())
        sets = {"new": self.new, "old": self.old}
        inputs = {name: f"{s.ref} {s.record.uuid}" if s else None for name, s in sets.items()}
        return {"config": config, "inputs": {**inputs, "rows_and_labels": digest.hexdigest()}}


def train(store: Store, config: TrainConfig, out: Path, *, progress: Progress = SILENT) -> TrainReport:
    """Train a map from the new features, and write it as a run folder.

    The folder ends with `map.safetensors`, `classifier.safetensors`, `metrics.jsonl` and, last, `card.json`. The same call
    on a finished folder returns at once, on an unfinished one it continues to the weights it would have reached
    undisturbed. Features of the output are declared compatible with the old space if the method aims at that.

    Args:
        store: Where the feature sets are.
        config: What to train on what.
        out: The run folder.
        progress: Told of epochs and of rows left out.

    Raises:
        UsageError: settings that cannot mean anything, an unknown loss or metric among them.
        NotFoundError: a feature set is not there.
        AlignmentError: the sets belong to different datasets.
        AlreadyExistsError: `out` holds another run or other files.
        TrainingError: nothing to train on, widths that the method cannot compare, a loss that is not finite.
    """
    started = time.perf_counter()
    out = Path(out)
    job = _prepare(store, config)
    if card := finished_card(out, job.request):
        (out / checkpoint.RESUME).unlink(missing_ok=True)
        progress.note(f"{out} already holds this run (cached)")
        return _report(out, card, cached=True, resumed_at=config.epochs, seconds=time.perf_counter() - started)
    resume = is_unfinished(out, job.request)
    reads_old = job.method.needs & {"old_feature", "prototype"}
    old = CachedColumn(job.old, job.rows.train, unit=True) if job.old and reads_old else None
    rows = _load_rows(job, old)
    validation = _load_validation(job)
    state = _build(job, rows, old)
    if resume:
        checkpoint.restore(out, state)
        progress.note(f"continuing after epoch {state.epoch} of {config.epochs}")
    else:
        out.mkdir(parents=True, exist_ok=True)
        state.notes = [*_row_notes(job, validation), *state.objective.begin()]
        checkpoint.save(out, state)
    for note in state.notes:
        progress.note(note)
    metrics_log.keep_first(out, state.epoch)
    resumed_at = state.epoch
    fit(state, rows, validation, config, out, progress)
    card = _write(job, state, validation, out)
    return _report(out, card, cached=False, resumed_at=resumed_at, seconds=time.perf_counter() - started)


def _prepare(store: Store, config: TrainConfig) -> _Job:
    method = find_objective(config.loss)
    params = method.Params(**config.params)
    metric_info(config.metric)
    new = store.features(config.new)
    old = store.features(config.old) if config.old else None
    if old is None and (method.compares or method.needs - {"label"}):
        raise UsageError(f"loss '{config.loss}' compares with old features", hint="name them: --old DATASET/NAME")
    width = config.width or (old.width if old else new.width)
    if old and method.compares and width != old.width:
        raise TrainingError(
            f"loss '{config.loss}' compares new features of width {width} with {old.ref}, which has width {old.width}; "
            "a cosine needs equal widths",
            hint=f"--width {old.width}, or leave --width out",
        )
    rows = choose_rows([new, old] if old else [new], config)
    return _Job(config, method, params, new, old, width, rows)


def _load_rows(job: _Job, old: CachedColumn | None) -> TrainingRows:
    inputs = CachedColumn(job.new, job.rows.train, unit=False)
    columns = {"old_feature": old} if old and "old_feature" in job.method.needs else {}
    return TrainingRows(inputs, job.rows.train_labels, len(job.rows.class_names), columns)


def _load_validation(job: _Job) -> Validation | None:
    rows = job.rows.validation
    if not len(rows):
        return None
    comparable = job.old is not None and job.old.width == job.width
    validation = Validation(
        job.new.gather(rows),
        job.rows.validation_labels,
        job.old.gather(rows) if job.old is not None and comparable else None,
        by_cross=job.method.compares,
        metric=job.config.metric,
        reference_self=job.config.reference_self,
    )
    return validation if validation.usable else None


def _build(job: _Job, rows: TrainingRows, old: CachedColumn | None) -> TrainState:
    config = job.config
    with global_seed(config.seed, "map"):
        module = build_map(config.map, job.new.width, job.width)
    module.fit_input(*rows.input_statistics())
    head = CosineSoftmax(rows.classes, job.width, config.scale, tensor_generator(config.seed, "head"))
    prototypes = rows.prototypes_of(old) if old and "prototype" in job.method.needs else None
    with global_seed(config.seed, "objective"):
        objective = job.method(job.params, ClassSide(rows.classes, config.epochs, prototypes))
    optimizer = make_optimizer(config, [module, head, objective])
    return TrainState(module, head, objective, optimizer, job.request)


def _row_notes(job: _Job, validation: Validation | None) -> list[str]:
    notes = []
    if job.rows.unlabelled:
        notes.append(f"{job.rows.unlabelled} rows without a label are left out")
    if job.rows.missing:
        notes.append(f"{job.rows.missing} rows without a feature in every set are left out")
    if validation is None:
        notes.append("no validation rows (two of a class are needed), so the last epoch is kept")
    return notes


def _write(job: _Job, state: TrainState, validation: Validation | None, out: Path) -> RunCard:
    state.load_best()
    head = state.head
    write_whole(out / CLASSIFIER, save({name: tensor.contiguous() for name, tensor in head.state_dict().items()}))
    counts = {"train": len(job.rows.train), "validation": len(job.rows.validation)}
    training = {
        **state.request,
        "rows": {**counts, "unlabelled": job.rows.unlabelled, "missing": job.rows.missing},
        "head": {
            "type": CosineSoftmax.name,
            "scale": job.config.scale,
            "margin": CosineSoftmax.margin,
            "class_names": list(job.rows.class_names),
        },
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "validation": {**validation.as_json(), **state.best_score} if validation else {},
        "notes": state.notes,
        "seconds": round(state.seconds, 3),
        "versions": {"featstore": featstore.__version__, "torch": torch.__version__},
    }
    card = save_map(
        out,
        state.module,
        config=job.config.map,
        input_space=job.new.space,
        name=out.name,
        compatible_with=(job.old.space.digest,) if job.old and job.method.compares else (),
        training=training,
        extra_files=(CLASSIFIER,),
    )
    (out / checkpoint.RESUME).unlink(missing_ok=True)
    return card


def _report(out: Path, card: RunCard, *, cached: bool, resumed_at: int, seconds: float) -> TrainReport:
    made = card.training
    rows = made["rows"]
    numbers = ("self_test", "cross_test", "score", "old_old", "reference_self")
    return TrainReport(
        folder=out,
        cached=cached,
        resumed_at=resumed_at,
        seconds=seconds,
        epoch=made["best_epoch"],
        epochs=made["epochs"],
        classes=len(made["head"]["class_names"]),
        rows=rows["train"],
        validation_rows=rows["validation"],
        unlabelled=rows["unlabelled"],
        missing=rows["missing"],
        validation={name: made["validation"][name] for name in numbers if made["validation"].get(name) is not None},
        notes=made["notes"],
    )
