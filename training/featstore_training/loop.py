"""The loop that every method shares, so that a comparison between methods compares the methods."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featstore.errors import TrainingError
from featstore.progress import Progress
from featstore_training import checkpoint, metrics_log
from featstore_training.ahead import ahead
from featstore_training.batches import CachedBatch, TrainingRows
from featstore_training.checkpoint import TrainState
from featstore_training.config import TrainConfig
from featstore_training.current import CurrentFeatures
from featstore_training.objectives import Batch
from featstore_training.objectives.base import Mixer
from featstore_training.old_rows import OldRows
from featstore_training.selection import Validation

__all__ = ["fit", "learning_rate", "make_optimizer", "train_epoch"]


def fit(
    state: TrainState,
    rows: TrainingRows,
    old: OldRows | None,
    validation: Validation | None,
    config: TrainConfig,
    out: Path,
    progress: Progress,
) -> None:
    """Train from `state.epoch` to the last epoch; a line in the log and a checkpoint after each.

    Raises:
        TrainingError: the loss is not finite. The checkpoint of the epoch before stays.
    """
    steps = rows.steps(config.batch)
    progress.start(f"train {config.loss}", config.epochs, "epochs", done=state.epoch)
    while state.epoch < config.epochs:
        started = time.perf_counter()
        terms = train_epoch(state, rows, config)
        state.epoch += 1
        figures = state.objective.refresh(state.epoch, CurrentFeatures(state.module, state.bridge, rows, old))
        score = validation.score(state.module, state.bridge).as_json() if validation else {}
        # without validation there is nothing to choose by and the last epoch is kept
        if not state.best or not score or score["score"] > state.best_score["score"]:
            state.keep_best(score)
        seconds = time.perf_counter() - started
        state.seconds += seconds
        line: dict[str, Any] = {
            "epoch": state.epoch,
            "lr": learning_rate(config, state.epoch * steps - 1, steps),
            "loss": terms,
            "objective": figures,
            "validation": score,
            "seconds": round(seconds, 4),
        }
        metrics_log.append(out, line)
        checkpoint.save(out, state)
        progress.advance(1)


@dataclass(frozen=True, slots=True)
class _Step:
    """What a step will do, before anything is read.

    Attributes:
        cached: Its rows.
        replaced: Rows whose old feature the classifier sees, bool [B]; None without mixing.
        forward: Rows that get a new feature, bool [B].
    """

    cached: CachedBatch
    replaced: Tensor | None
    forward: Tensor

    @property
    def picked(self) -> Tensor:
        """Positions of the rows that get a new feature."""
        return self.cached.rows[self.forward]


def train_epoch(state: TrainState, rows: TrainingRows, config: TrainConfig) -> dict[str, float]:
    """One pass; the mean of each loss term over steps.

    Raises:
        TrainingError: the loss is not finite.
    """
    sums: dict[str, float] = {}
    steps = rows.steps(config.batch)
    state.module.train()
    for number, (step, inputs) in enumerate(_steps(state, rows, config)):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config, state.epoch * steps + number, steps)
        progress = (state.epoch + number / steps) / config.epochs
        terms = state.objective.loss(_batch(state, rows, step, inputs, progress), state.head)
        total = torch.stack(list(terms.values())).sum()
        _check_finite(total, terms, state.epoch, number)
        state.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        state.optimizer.step()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + float(term.detach())
    return {name: value / steps for name, value in sums.items()}


def _steps(state: TrainState, rows: TrainingRows, config: TrainConfig) -> Iterator[tuple[_Step, Tensor]]:
    """The steps of an epoch with their inputs, which are prepared ahead where that takes time."""
    waiting: deque[_Step] = deque()

    def calls() -> Iterator[Callable[[], Tensor]]:
        for cached in rows.batches(config.batch, config.seed, state.epoch):
            step = _plan(state.objective.mixer, cached)
            waiting.append(step)
            yield partial(rows.inputs.training, step.picked.numpy(), state.epoch)

    for inputs in ahead(calls(), rows.inputs.workers):
        yield waiting.popleft(), inputs


def _plan(mixer: Mixer | None, cached: CachedBatch) -> _Step:
    """Which rows of a batch get a new feature; the first draw from its generator is the mixer's."""
    replaced = mixer.choose(cached.rows, cached.generator) if mixer else None
    if mixer and mixer.skip_forward and replaced is not None:
        return _Step(cached, replaced, ~replaced)
    return _Step(cached, replaced, torch.ones(len(cached.rows), dtype=torch.bool))


def _batch(state: TrainState, rows: TrainingRows, step: _Step, inputs: Tensor, progress: float) -> Batch:
    """New features of a step's rows; with a mixer, what the classifier sees as well."""
    cached, replaced, forward = step.cached, step.replaced, step.forward
    columns = rows.columns_at(cached.rows)
    feature = state.module(inputs)
    mixed = None
    if replaced is not None:
        new = state.bridge.mixing_side(feature)[~replaced[forward]]
        old = state.bridge.lift(columns["old_feature"][replaced]).to(new.dtype)
        mixed = torch.cat([new, old]), torch.cat([cached.label[~replaced], cached.label[replaced]])
    return Batch(
        feature=feature,
        label=cached.label[forward],
        columns={name: column[forward] for name, column in columns.items()},
        rows=step.picked,
        bridged=None if state.bridge.policy is None else state.bridge(feature),
        mixed=mixed,
        epoch=state.epoch,
        progress=progress,
        generator=cached.generator,
    )


def _check_finite(total: Tensor, terms: dict[str, Tensor], epoch: int, step: int) -> None:
    if not bool(torch.isfinite(total)):
        values = ", ".join(f"{name} = {float(term.detach()):g}" for name, term in terms.items())
        raise TrainingError(
            f"the loss is not finite in epoch {epoch + 1}, step {step + 1}: {values}",
            hint=f"train into another folder with a lower --lr; the checkpoint after epoch {epoch} is kept in this one",
        )


def make_optimizer(config: TrainConfig, modules: list[nn.Module]) -> torch.optim.Optimizer:
    """The optimiser over all parameters of some modules."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The rate of a step counted from 0 over the run: linear warm-up, then constant or half a cosine.

    Args:
        config: Rate, schedule, warm-up and epochs.
        step: Which step.
        steps: Steps of an epoch.
    """
    warm = min(1.0, (step + 1) / (config.warmup * steps)) if config.warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * step / (config.epochs * steps))) if config.schedule == "cosine" else 1.0
    return config.lr * warm * fall
