"""FastFill: FCT that is taught by the new model's classifier as well, and knows which rows it is unsure of."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from featstore.errors import TrainingError, UsageError
from featstore.maps import Branches, FeatureMap, LinearConfig, build_map
from featstore_training.adapters.base import Candidate, Choose, Pairs, Work
from featstore_training.adapters.fct import Fct, FctParams, branches, branches_config, folded
from featstore_training.adapters.trained import train_onto
from featstore_training.objectives.uncertain import UncertainParams, UncertainRegression
from featstore_training.seeds import global_seed

__all__ = ["Fastfill", "FastfillParams"]


class FastfillParams(FctParams, UncertainParams):
    """Settings of `fastfill`: those of `fct` and of the loss."""

    what: ClassVar[str] = "params of fastfill"


class Fastfill(Fct):
    """ℒ = mean [½ e^(−ς) b + μ_u ς], b = μ_sim · mean (z − √D_n f̂ⁿ)² + μ_disc · CE(head(z), y), z = h(f̂ᵒ, ŝ), ς = w·z + v.

    h is the network of `fct`, head the new model's classifier, frozen and without its margin. Rows of classes that it does
    not know have no second part. z/√D_n is stored, not normalised, so that ς can be read from what is stored.
    """

    name = "fastfill"
    summary = "fct with the new model's frozen classifier, and an uncertainty that orders a partial backfill"
    paper = "Jaeckle et al., FastFill, ICLR 2023"
    Params = FastfillParams
    params: FastfillParams
    needs = frozenset({"new_feature", "old_feature", "label", "new_classifier"})

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """Train, or go on where a checkpoint stands; a line in `metrics.jsonl` and a checkpoint after every epoch."""
        del choose
        classes = pairs.required_classes()
        head = classes.head
        if head is None:
            raise LookupError("this adapter must list 'new_classifier' in `needs`")
        if self.params.unit and not head.cosine:
            raise UsageError(
                "the new model's classifier reads the length of features, which unit targets do not have",
                hint="--loss fastfill:raw regresses on features as they are",
            )
        if not bool((classes.label >= 0).any()):
            raise TrainingError(
                "the new model's classifier knows no class of these rows", hint="--loss fct needs no classes"
            )
        made_of = branches_config(self.params, work.sides, normalise=False)
        with global_seed(work.seed, "map"):
            network = _Unsure(branches(made_of, pairs, norm=True), pairs.y.width)
        train_onto(network, self.params, pairs, work, UncertainRegression, head)
        module = folded(network.branches, made_of, pairs)
        length = math.sqrt(pairs.y.width) if self.params.unit else 1.0
        return Candidate({}, _shortened(module, length), _doubt(network.doubt, length))


class _Unsure(nn.Module):
    """x → [z, w·z + v], [B, D_n + 1]."""

    def __init__(self, network: Branches, width: int) -> None:
        super().__init__()
        self.branches = network
        self.doubt = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.branches(x)
        return torch.cat([z, self.doubt(z)], dim=1)


@torch.no_grad()
def _shortened(module: FeatureMap, length: float) -> FeatureMap:
    """The same map with outputs divided by `length`: about as long as the targets."""
    last = [layer for layer in module.body.modules() if isinstance(layer, nn.Linear)][-1]
    last.weight.div_(length)
    last.bias.div_(length)
    return module


@torch.no_grad()
def _doubt(trained: nn.Linear, length: float) -> FeatureMap:
    """ς of outputs that were divided by `length`."""
    module = build_map(LinearConfig(normalise=False), trained.in_features, 1)
    module.body.load_state_dict({"weight": trained.weight * length, "bias": trained.bias})
    return module.eval()
