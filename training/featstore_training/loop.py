"""The loop that every method shares, so that a comparison between methods compares the methods."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featstore.errors import TrainingError
from featstore.progress import Progress
from featstore_training import checkpoint, metrics_log
from featstore_training.batches import TrainingRows
from featstore_training.checkpoint import TrainState
from featstore_training.config import TrainConfig
from featstore_training.current import CurrentFeatures
from featstore_training.old_rows import OldRows
from featstore_training.seeds import global_seed
from featstore_training.selection import Validation
from featstore_training.steps import make_batch, planned_steps

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
    progress.start(f"train {config.loss}", config.epochs, "epochs", done=state.epoch)
    while state.epoch < config.epochs:
        started = time.perf_counter()
        # a network may draw for itself (dropout); a resumed run draws the same
        with global_seed(config.seed, f"epoch {state.epoch} process {state.processes.rank}"):
            terms = train_epoch(state, rows, config)
        state.epoch += 1
        if state.processes.leader:
            figures = state.objective.refresh(state.epoch, CurrentFeatures(state.module, state.bridge, rows, old))
            score = _judge(state, validation)
            seconds = time.perf_counter() - started
            state.seconds += seconds
            line: dict[str, Any] = {
                "epoch": state.epoch,
                "lr": state.optimizer.param_groups[0]["lr"],
                "loss": terms,
                "objective": figures,
                "validation": score,
                "seconds": round(seconds, 4),
            }
            metrics_log.append(out, line)
            checkpoint.save(out, state)
        state.processes.follow_leader((state.module, state.bridge, state.head, state.objective))
        progress.advance(1)


def _judge(state: TrainState, validation: Validation | None) -> dict[str, Any]:
    """Score an epoch and remember its weights if they are the best so far."""
    with state.as_kept():
        score = validation.score(state.module, state.bridge).as_json() if validation else {}
        # without validation there is nothing to choose by and the last epoch is kept
        if not state.best or not score or score["score"] > state.best_score["score"]:
            state.keep_best(score)
    return score


def train_epoch(state: TrainState, rows: TrainingRows, config: TrainConfig) -> dict[str, float]:
    """One pass; the mean of each loss term over steps.

    Raises:
        TrainingError: the loss is not finite.
    """
    sums: dict[str, float] = {}
    steps = rows.steps(config.batch)
    state.module.train()
    for number, (step, inputs) in enumerate(planned_steps(state, rows, config)):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config, state.epoch * steps + number, steps)
        progress = (state.epoch + number / steps) / config.epochs
        terms = state.objective.loss(make_batch(state, rows, config, step, inputs, progress), state.head)
        total = torch.stack(list(terms.values())).sum()
        _check_finite(total, terms, state.epoch, number)
        state.optimizer.zero_grad()
        state.scaler.scale(total).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if config.clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(_parameters(state.optimizer), config.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average:
            state.average.follow(state.epoch * steps + number)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + float(term.detach())
    return {name: value / steps for name, value in sums.items()}


def _check_finite(total: Tensor, terms: dict[str, Tensor], epoch: int, step: int) -> None:
    if not bool(torch.isfinite(total)):
        values = ", ".join(f"{name} = {float(term.detach()):g}" for name, term in terms.items())
        raise TrainingError(
            f"the loss is not finite in epoch {epoch + 1}, step {step + 1}: {values}",
            hint="train into another folder with a lower rate (--set lr=…); "
            f"the checkpoint after epoch {epoch} is kept in this one",
        )


def make_optimizer(config: TrainConfig, modules: list[nn.Module]) -> torch.optim.Optimizer:
    """The optimiser over all parameters of some modules."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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
