"""FCT: a network from the old feature, and side-information about the image if there is any, to the new feature."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from featstore.maps import Branches, BranchesConfig, build_map, fold
from featstore_training import checkpoint, metrics_log
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work
from featstore_training.batches import TrainingRows
from featstore_training.bridges import make_bridge
from featstore_training.checkpoint import TrainState
from featstore_training.config import TrainConfig
from featstore_training.head_config import CosineConfig
from featstore_training.heads import build_head
from featstore_training.joined import ColumnInputs
from featstore_training.loop import fit, make_optimizer
from featstore_training.objectives.regression import Regression, RegressionParams
from featstore_training.seeds import global_seed, tensor_generator

__all__ = ["Fct", "FctParams"]


class FctParams(RegressionParams):
    """Settings of `fct`, by default the published ones.

    Attributes:
        unit: Old feature, side-information and target have norm 1, and so has what is stored; off, all are as emitted and
            the squared error is a mean over components.
        hidden: Width of the joined layers.
        epochs: Passes over the rows; the last one's weights are kept.
        batch: Rows of a step.
        lr: Rate of Adam at its highest.
        weight_decay: L2 penalty added to the gradient.
        warmup: Epochs of linear warm-up, before half a cosine.
    """

    what: ClassVar[str] = "params of fct"

    hidden: int = Field(default=2048, gt=0)
    epochs: int = Field(default=80, ge=1)
    batch: int = Field(default=1024, ge=2)
    lr: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=2**-15, ge=0)
    warmup: float = Field(default=5.0, ge=0)


class Fct(Adapter):
    """ℒ = mean ‖h(f̂ᵒ, ŝ) − f̂ⁿ‖², h: D_o → 2D_o → 2D_n beside S → 2S → 2D_n, joined → 2048 → 2048 → D_n.

    Batch norm and ReLU follow every layer but the last; batch norm keeps its statistics in the second half of the run and
    is folded into the linear layers in the end, so a row's output never depends on other rows. Without
    side-information both branches read the old feature, as in the public code.
    """

    name = "fct"
    summary = "network from old features and side-information to new ones; needs no label"
    paper = "Ramanujan et al., Forward Compatible Training, CVPR 2022"
    Params = FctParams
    params: FctParams
    forms: ClassVar = {"raw": {"unit": False}}
    directions = ("old-to-new",)
    takes_side = True

    @property
    def unit(self) -> bool:
        """Off in the literal form."""
        return self.params.unit

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """Train, or go on where a checkpoint stands; a line in `metrics.jsonl` and a checkpoint after every epoch."""
        del choose
        params = self.params
        made_of = BranchesConfig(side=work.sides, hidden=params.hidden, unit=params.unit, normalise=params.unit)
        with global_seed(work.seed, "map"):
            network = _network(made_of, pairs, norm=True)
        config = TrainConfig(
            loss=self.name,
            new="(targets)",
            epochs=params.epochs,
            batch=params.batch,
            lr=params.lr,
            weight_decay=params.weight_decay,
            warmup=params.warmup,
            seed=work.seed,
        )
        objective = Regression(RegressionParams(error=params.error, unit=params.unit), network, params.epochs)
        # the loop trains methods with classes as well; here there are none
        no_head = build_head(CosineConfig(), 1, 1, tensor_generator(work.seed, "head"))
        bridge = make_bridge(None, pairs.y.width, pairs.y.width)
        state = TrainState(network, bridge, no_head, objective, make_optimizer(config, [network]), work.request)
        if checkpoint.read_header(work.folder):
            checkpoint.restore(work.folder, state)
            work.progress.note(f"continuing after epoch {state.epoch} of {config.epochs}")
        else:
            work.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.save(work.folder, state)
        metrics_log.keep_first(work.folder, state.epoch)
        objective.freeze_after(state.epoch)
        labels = torch.zeros(len(pairs.x), dtype=torch.int64)
        rows = TrainingRows(ColumnInputs(pairs.x), labels, 1, {"target": pairs.y})
        fit(state, rows, None, None, config, work.folder, work.progress)
        plain = _network(made_of, pairs)
        fold(network, plain)
        module = build_map(made_of, pairs.x.width, pairs.y.width)
        module.body = plain
        return Candidate({}, module.eval())


def _network(config: BranchesConfig, pairs: Pairs, *, norm: bool = False) -> Branches:
    return Branches(pairs.x.width, pairs.y.width, side=config.side, hidden=config.hidden, unit=config.unit, norm=norm)
