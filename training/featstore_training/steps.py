"""One step of training: which rows it takes, their inputs, and the batch an objective sees.

B batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featstore_training.ahead import ahead
from featstore_training.batches import CachedBatch, TrainingRows
from featstore_training.checkpoint import TrainState
from featstore_training.config import TrainConfig
from featstore_training.inputs import Inputs
from featstore_training.objectives import Batch
from featstore_training.objectives.base import Mixer

__all__ = ["Step", "make_batch", "planned_steps"]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Step:
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


def planned_steps(state: TrainState, rows: TrainingRows, config: TrainConfig) -> Iterator[tuple[Step, Tensor]]:
    """The steps of an epoch with this process's inputs, which are prepared ahead where that takes time."""
    waiting: deque[Step] = deque()

    def calls() -> Iterator[Callable[[], Tensor]]:
        batches = rows.batches(
            config.batch, config.seed, state.epoch, sampler=config.sampler, per_class=config.per_class
        )
        for cached in batches:
            step = _plan(state.objective.mixer, cached)
            waiting.append(step)
            own = state.processes.share(step.picked)
            yield partial(_drawn, rows.inputs, own.numpy(), state.epoch, state.objective.views_per_step)

    for inputs in ahead(calls(), rows.inputs.workers):
        yield waiting.popleft(), inputs


def _drawn(inputs: Inputs, positions: NDArray[np.int64], epoch: int, views: int) -> Tensor:
    """Some rows as an epoch sees them; with two views those of all rows stand behind the first ones."""
    if views == 1:
        return inputs.training(positions, epoch)
    return torch.cat([inputs.training(positions, views * epoch + view) for view in range(views)])


def _plan(mixer: Mixer | None, cached: CachedBatch) -> Step:
    """Which rows of a batch get a new feature; the first draw from its generator is the mixer's."""
    replaced = mixer.choose(cached.rows, cached.generator) if mixer else None
    if mixer and mixer.skip_forward and replaced is not None:
        return Step(cached, replaced, ~replaced)
    return Step(cached, replaced, torch.ones(len(cached.rows), dtype=torch.bool))


def make_batch(
    state: TrainState, rows: TrainingRows, config: TrainConfig, step: Step, inputs: Tensor, progress: float
) -> Batch:
    """New features of a step's rows; with a mixer, what the classifier sees as well."""
    cached, replaced, forward = step.cached, step.replaced, step.forward
    columns = rows.columns_at(cached.rows, state.epoch)
    dtype = _AUTOCAST.get(config.amp or "")
    with torch.autocast(inputs.device.type, dtype, enabled=dtype is not None):
        parts = inputs.chunk(state.objective.views_per_step)
        feature, *more = [state.processes.features(state.module, part, len(step.picked)).float() for part in parts]
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
        second=more[0] if more else None,
    )
