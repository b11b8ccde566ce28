"""`train`: from cached features, or images beside cached old features, to a run folder."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch.amp import GradScaler

import featstore
from featstore.maps import LinearConfig, save_map
from featstore.progress import SILENT, Progress
from featstore.runs import RunCard, read_card
from featstore.spaces import Space
from featstore.store import Store
from featstore.whole_files import write_whole
from featstore_training import checkpoint, metrics_log
from featstore_training.average import Average
from featstore_training.batches import TrainingRows
from featstore_training.bridges import make_bridge
from featstore_training.checkpoint import TrainState
from featstore_training.column_cache import ColumnCache
from featstore_training.config import TrainConfig
from featstore_training.heads import build_head
from featstore_training.job import Job, prepare
from featstore_training.loop import fit, make_optimizer
from featstore_training.objectives import ClassSide
from featstore_training.old_head import CLASSIFIER
from featstore_training.old_rows import Column, OldRows
from featstore_training.processes import Processes, join_processes
from featstore_training.run_folder import BRIDGE, finished_card, is_unfinished
from featstore_training.seeds import global_seed, tensor_generator
from featstore_training.selection import Validation

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
        process: Which of several processes this is; the first, 0, speaks for all.
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
    process: int = 0


def train(
    store: Store, config: TrainConfig, out: Path, *, cache: ColumnCache | None = None, progress: Progress = SILENT
) -> TrainReport:
    """Train a map on the new features, or a backbone on images, and write it as a run folder.

    The folder ends with `map.safetensors` or `encoder.safetensors`, `classifier.safetensors`, `metrics.jsonl`, for
    different widths a run folder `bridge`, and last `card.json`. The same call on a finished folder returns at once, on
    an unfinished one it continues to the weights it would have reached undisturbed. Features of the output are declared
    compatible with the old space if the method aims at that.

    Started by `torchrun` in several processes, all of them make this call; they divide each batch, and the first one
    writes. All must see the store and the folder.

    Args:
        store: Where the feature sets are.
        config: What to train on what.
        out: The run folder.
        cache: Holds columns that other runs read as well.
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
    processes = join_processes()
    if not processes.leader:
        progress = SILENT
    job = prepare(store, config, progress)
    config = job.config
    if card := finished_card(out, job.request):
        (out / checkpoint.RESUME).unlink(missing_ok=True)
        progress.note(f"{out} already holds this run (cached)")
        seconds = time.perf_counter() - started
        return _report(out, card, cached=True, resumed_at=config.epochs, seconds=seconds, process=processes.rank)
    resume = is_unfinished(out, job.request)
    processes.wait()  # nobody writes before all have looked
    cache = cache or ColumnCache()
    old = _load_old(job, cache)
    rows = _load_rows(job, cache, old)
    validation = _load_validation(job, cache)
    state = _build(job, rows, old, processes)
    if resume:
        checkpoint.restore(out, state)
        progress.note(f"continuing after epoch {state.epoch} of {config.epochs}")
    else:
        state.notes = [*_row_notes(job, validation), *state.objective.begin()]
        if processes.leader:
            out.mkdir(parents=True, exist_ok=True)
            checkpoint.save(out, state)
    for note in state.notes:
        progress.note(note)
    if processes.leader:
        metrics_log.keep_first(out, state.epoch)
    resumed_at = state.epoch
    fit(state, rows, old, validation, config, out, progress)
    card = _write(job, state, validation, out) if processes.leader else None
    processes.wait()
    card = card or read_card(out)
    seconds = time.perf_counter() - started
    return _report(out, card, cached=False, resumed_at=resumed_at, seconds=seconds, process=processes.rank)


def _load_rows(job: Job, cache: ColumnCache, old: OldRows | None) -> TrainingRows:
    inputs = job.new.inputs(job.rows.train, cache)
    columns: dict[str, Column] = {"old_feature": old.column} if old and "old_feature" in job.needs else {}
    if job.side and "side" in job.needs:
        columns["side"] = cache.column(job.side, job.rows.train, unit=True)
    return TrainingRows(inputs, torch.from_numpy(job.rows.train_labels), len(job.rows.class_names), columns)


def _load_old(job: Job, cache: ColumnCache) -> OldRows | None:
    if job.old is None or not job.needs & {"old_feature", "prototype"}:
        return None
    column = cache.viewed(job.old, job.old_views, job.rows.train, unit=True, seed=job.config.seed)
    return OldRows(column, torch.from_numpy(job.rows.train_labels), len(job.rows.class_names))


def _load_validation(job: Job, cache: ColumnCache) -> Validation | None:
    rows = job.rows.validation
    if not job.rows.can_validate:
        return None
    comparable = job.old is not None and (job.compares or job.old.width == job.width)
    return Validation(
        job.new.inputs(rows, cache),
        job.rows.validation_labels,
        job.old.gather(rows) if job.old is not None and comparable else None,
        by_cross=job.compares,
        metric=job.config.metric,
        raw=job.new.raw(rows),
        reference_self=job.config.reference_self,
    )


def _build(job: Job, rows: TrainingRows, old: OldRows | None, processes: Processes) -> TrainState:
    config, start_seed = job.config, job.start_seed
    module = processes.prepared(job.new.build(start_seed, job.width, rows))
    with global_seed(config.seed, "bridge"):
        old_width = job.old.width if job.old and job.compares else job.width
        bridge = make_bridge(config.bridge, job.width, old_width)
    side = ClassSide(
        classes=rows.classes,
        epochs=config.epochs,
        prototypes=old.prototypes() if old and "prototype" in job.needs else None,
        old=old,
        old_head=job.old_run.for_classes(job.rows.class_names) if job.old_run else None,
        bridge=bridge,
        module=module,
    )
    with global_seed(config.seed, "objective"):
        objective = job.method(job.params, side)
    width = bridge.mixing_width if objective.mixer else job.width
    vertices = torch.tensor(job.vertices) if job.vertices else None
    head = build_head(job.head, rows.classes, width, tensor_generator(start_seed, "head"), vertices)
    optimizer = make_optimizer(config, [module, bridge, head, objective])
    state = TrainState(module, bridge, head, objective, optimizer, job.request, processes=processes)
    if config.amp == "fp16":
        state.scaler = GradScaler(next(module.parameters()).device.type)
    if config.ema:
        state.average = Average(config.ema, state.kept())
    return state


def _row_notes(job: Job, validation: Validation | None) -> list[str]:
    notes = []
    if job.rows.unlabelled:
        notes.append(f"{job.rows.unlabelled} rows without a label are left out")
    if job.rows.missing:
        what = "a feature in every set" if job.new.mode == "head" else "an image and a feature in every set"
        notes.append(f"{job.rows.missing} rows without {what} are left out")
    if validation is None:
        notes.append("no validation rows (two of a class are needed), so the last epoch is kept")
    return notes


def _write(job: Job, state: TrainState, validation: Validation | None, out: Path) -> RunCard:
    state.load_best()
    head = state.head
    write_whole(out / CLASSIFIER, save({name: tensor.contiguous() for name, tensor in head.state_dict().items()}))
    counts = {"train": len(job.rows.train), "validation": len(job.rows.validation)}
    training = {
        **state.request,
        "rows": {**counts, "unlabelled": job.rows.unlabelled, "missing": job.rows.missing},
        "head": {
            "type": job.head.name,
            "scale": state.head.scale,
            "margin": state.head.margin,
            "config": job.head.model_dump(mode="json"),
            "class_names": list(job.rows.class_names),
            "assigned": job.assigned,
        },
        "lineage": job.lineage,
        "bridge": _bridge_entry(job),
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "validation": {**validation.as_json(), **state.best_score} if validation else {},
        "notes": state.notes,
        "seconds": round(state.seconds, 3),
        "processes": state.processes.size,
        "versions": {"featstore": featstore.__version__, "torch": torch.__version__},
    }
    old_space = (job.old.space.digest,) if job.old and job.compares else ()
    if job.config.bridge:
        _write_bridge(job, state, job.new.space(state.module, out.name), old_space, out)
        old_space = ()
    card = job.new.save(
        out, state.module, name=out.name, compatible_with=old_space, training=training, extra_files=(CLASSIFIER,)
    )
    (out / checkpoint.RESUME).unlink(missing_ok=True)
    return card


def _bridge_entry(job: Job) -> dict[str, Any] | None:
    """How the card says that widths are bridged."""
    if not job.config.bridge or job.old is None:
        return None
    return {"policy": job.config.bridge, "from": job.width, "to": job.old.width, "run": BRIDGE}


def _write_bridge(job: Job, state: TrainState, space: Space, old_space: tuple[str, ...], out: Path) -> None:
    """The way from the new features to what is compared with old ones, as a run folder inside the run's."""
    shutil.rmtree(out / BRIDGE, ignore_errors=True)  # a crash may have left one
    save_map(
        out / BRIDGE,
        state.bridge.as_map(),
        config=LinearConfig(),
        input_space=space,
        name=f"{out.name}.{BRIDGE}",
        compatible_with=old_space,
        training={"bridge": _bridge_entry(job), "inputs": state.request["inputs"]},
    )


def _report(out: Path, card: RunCard, *, cached: bool, resumed_at: int, seconds: float, process: int) -> TrainReport:
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
        process=process,
    )
