"""FCT: a network from the old feature, and side-information about the image if there is any, to the new feature."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from featstore.maps import Branches, BranchesConfig, FeatureMap, build_map, fold
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work
from featstore_training.adapters.trained import TrainedParams, train_onto
from featstore_training.seeds import global_seed

__all__ = ["Fct", "FctParams", "branches", "branches_config", "folded"]


class FctParams(TrainedParams):
    """Settings of `fct`, by default the published ones.

    Attributes:
        hidden: Width of the joined layers.
    """

    what: ClassVar[str] = "params of fct"

    hidden: int = Field(default=2048, gt=0)


class Fct(Adapter):
    """ℒ = mean (h(f̂ᵒ, ŝ) − √D_n f̂ⁿ)², h: D_o → 2D_o → 2D_n beside S → 2S → 2D_n, joined → 2048 → 2048 → D_n.

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
    takes_views = True

    @property
    def unit(self) -> bool:
        """Off in the literal form."""
        return self.params.unit

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """Train, or go on where a checkpoint stands; a line in `metrics.jsonl` and a checkpoint after every epoch."""
        del choose
        made_of = branches_config(self.params, work.sides)
        with global_seed(work.seed, "map"):
            network = branches(made_of, pairs, norm=True)
        train_onto(network, self.params, pairs, work)
        return Candidate({}, folded(network, made_of, pairs))


def branches_config(params: FctParams, sides: tuple[int, ...], *, normalise: bool = True) -> BranchesConfig:
    """What the network is made of; outputs have norm 1 if `normalise` and targets have."""
    return BranchesConfig(side=sides, hidden=params.hidden, unit=params.unit, normalise=normalise and params.unit)


def branches(config: BranchesConfig, pairs: Pairs, *, norm: bool = False) -> Branches:
    """A fresh network from x to y; `norm` for training."""
    return Branches(pairs.x.width, pairs.y.width, side=config.side, hidden=config.hidden, unit=config.unit, norm=norm)


def folded(network: Branches, config: BranchesConfig, pairs: Pairs) -> FeatureMap:
    """The map of a trained network, batch norm folded into its linear layers."""
    plain = branches(config, pairs)
    fold(network, plain)
    module = build_map(config, pairs.x.width, pairs.y.width)
    module.body = plain
    return module.eval()
