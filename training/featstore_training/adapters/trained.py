"""Adapters that have no closed form: a network trained to reproduce the features of the other model."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from featstore_training import checkpoint, metrics_log
from featstore_training.adapters.base import Pairs, Work
from featstore_training.batches import TrainingRows
from featstore_training.bridges import make_bridge
from featstore_training.checkpoint import TrainState
from featstore_training.config import TrainConfig
from featstore_training.head_config import CosineConfig
from featstore_training.heads import Head, build_head
from featstore_training.joined import ColumnInputs
from featstore_training.loop import fit, make_optimizer
from featstore_training.objectives.regression import Regression, RegressionParams
from featstore_training.seeds import tensor_generator

__all__ = ["TrainedParams", "train_onto"]


class TrainedParams(RegressionParams):
    """Settings of an adapter that is trained; the defaults are FCT's.

    Attributes:
        unit: What goes in and the target have norm 1, and so has what is stored; off, all are as emitted.
        epochs: Passes over the rows; the last one's weights are kept.
        batch: Rows of a step.
        lr: Rate of Adam at its highest.
        weight_decay: L2 penalty added to the gradient.
        warmup: Epochs of linear warm-up, before half a cosine.
    """

    what: ClassVar[str] = "params of a trained adapter"

    epochs: int = Field(default=80, ge=1)
    batch: int = Field(default=1024, ge=2)
    lr: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=2**-15, ge=0)
    warmup: float = Field(default=5.0, ge=0)


def train_onto(
    network: nn.Module,
    params: TrainedParams,
    pairs: Pairs,
    work: Work,
    objective: type[Regression] = Regression,
    head: Head | None = None,
) -> None:
    """Train, or go on where a checkpoint stands; a line in `metrics.jsonl` and a checkpoint after every epoch.

    Args:
        network: What is trained, from x to y.
        params: How; settings of the objective too.
        pairs: On what.
        work: Seed and folder.
        objective: By what.
        head: A frozen classifier, for an objective that reads one; its columns are what labels of pairs mean.
    """
    config = TrainConfig(
        loss="adapter",
        new="(targets)",
        epochs=params.epochs,
        batch=params.batch,
        lr=params.lr,
        weight_decay=params.weight_decay,
        warmup=params.warmup,
        seed=work.seed,
    )
    # the loop trains methods with classes as well; where there are none it gets one
    head = head or build_head(CosineConfig(), 1, 1, tensor_generator(work.seed, "head"))
    bridge = make_bridge(None, pairs.y.width, pairs.y.width)
    trained_by = objective(params, network, params.epochs)
    state = TrainState(network, bridge, head, trained_by, make_optimizer(config, [network]), work.request)
    if checkpoint.read_header(work.folder):
        checkpoint.restore(work.folder, state)
        work.progress.note(f"continuing after epoch {state.epoch} of {config.epochs}")
    else:
        work.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(work.folder, state)
    metrics_log.keep_first(work.folder, state.epoch)
    trained_by.freeze_after(state.epoch)
    labels = pairs.classes.label if pairs.classes else torch.zeros(len(pairs.x), dtype=torch.int64)
    rows = TrainingRows(ColumnInputs(pairs.x), labels, head.classes, {"target": pairs.y})
    fit(state, rows, None, None, config, work.folder, work.progress)
