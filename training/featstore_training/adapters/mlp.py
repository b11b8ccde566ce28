"""A residual network around the Procrustes map: what a rotation cannot say, a small hidden layer may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from featstore.maps import ResidualConfig, build_map
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work
from featstore_training.adapters.procrustes import nearest_orthogonal
from featstore_training.adapters.trained import TrainedParams, train_onto
from featstore_training.seeds import global_seed

__all__ = ["Mlp", "MlpParams"]


class MlpParams(TrainedParams):
    """Settings of `mlp`.

    Attributes:
        hidden: Width of the hidden layer.
    """

    what: ClassVar[str] = "params of mlp"

    error: Literal["mse", "cosine"] = "cosine"
    hidden: int = Field(default=512, gt=0)
    epochs: int = Field(default=40, ge=1)
    batch: int = Field(default=256, ge=2)


class Mlp(Adapter):
    """Output A x̂ + b + W₂ GELU(W₁ x̂ + b₁), trained from A = the Procrustes solution and W₂ = 0 to the least 1 − cos.

    Held-out retrieval decides between the trained map and the Procrustes map it began with.
    """

    name = "mlp"
    summary = "residual network around a rotation, trained; kept only if it retrieves better held-out"
    paper = "after Drift-Adapter, EMNLP 2025"
    Params = MlpParams
    params: MlpParams
    takes_views = True

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """One pass for the rotation, then training with a checkpoint after every epoch."""
        rotation = torch.from_numpy(nearest_orthogonal(pairs.moments().yx)).float()

        def started() -> Candidate:
            with global_seed(work.seed, "map"):
                module = build_map(ResidualConfig(hidden=self.params.hidden), pairs.x.width, pairs.y.width)
            module.get_submodule("body.straight").load_state_dict(
                {"weight": rotation, "bias": torch.zeros(pairs.y.width)}
            )
            return Candidate({"trained": False}, module.eval())

        def candidates() -> Iterator[Candidate]:
            yield started()
            trained = Candidate({"trained": True}, started().module)
            train_onto(trained.module.body, self.params, pairs, work)
            trained.module.eval()
            yield trained

        return choose(candidates())
