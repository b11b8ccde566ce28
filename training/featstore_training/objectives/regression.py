"""What a map is trained by that shall reproduce the features of another model: no class, no classifier."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from featstore.maps import Branches
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, Current, Objective
from featstore_training.strict import Strict

__all__ = ["Regression", "RegressionParams"]


class RegressionParams(Strict):
    """Settings of a regression onto cached features.

    Attributes:
        error: `mse`, squared distance, mean over rows; `cosine`, 1 − cos, mean over rows.
        unit: Targets have norm 1 and the squared distance is summed over components; off, it is their mean, as published
            for features of components about 1. The mean over components of unit targets would leave gradients so small
            that weight decay alone decides.
    """

    what: ClassVar[str] = "params of a regression"

    error: Literal["mse", "cosine"] = "mse"
    unit: bool = True


class Regression(Objective):
    """ℒ = mean ‖h(x) − y‖², or 1 − cos(h(x), y), with y the column `target`; batch norm of h stops adapting half-way.

    Args:
        params: Settings.
        network: h.
        epochs: Epochs of the run.
    """

    Params = RegressionParams

    def __init__(self, params: RegressionParams, network: Branches, epochs: int) -> None:
        super().__init__()
        self.params = params
        self._network = (network,)  # trained elsewhere: no submodule
        self._epochs = epochs

    def freeze_after(self, epoch: int) -> None:
        """Batch norm keeps its statistics in the second half of the run; called with the epochs that are finished."""
        self._network[0].frozen = 2 * epoch >= self._epochs

    def refresh(self, epoch: int, current: Current) -> dict[str, float]:
        """See `freeze_after`."""
        del current
        self.freeze_after(epoch)
        return {}

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """One term, called as the error is."""
        del head
        target = batch.columns["target"]
        if self.params.error == "cosine":
            return {"cosine": (1 - functional.cosine_similarity(batch.feature, target)).mean()}
        squares = (batch.feature - target).square()
        return {"mse": (squares.sum(dim=1) if self.params.unit else squares).mean()}
