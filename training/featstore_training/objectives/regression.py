"""What a map is trained by that shall reproduce the features of another model: no class, no classifier.

B batch, D width.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional

from featstore.maps import Branches
from featstore.strict import Strict
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, Current, Objective

__all__ = ["Regression", "RegressionParams"]


class RegressionParams(Strict):
    """Settings of a regression onto cached features.

    Attributes:
        error: `mse`, mean over rows and components; `cosine`, 1 − cos, mean over rows.
        unit: Targets have norm 1; for the squared error they are multiplied by √D, since networks begin with outputs of
            components of about 1 and take long to shrink them.
    """

    what: ClassVar[str] = "params of a regression"

    error: Literal["mse", "cosine"] = "mse"
    unit: bool = True


class Regression(Objective):
    """ℒ = mean (h(x) − y)², or 1 − cos(h(x), y), with y the column `target`; batch norm of h stops adapting half-way.

    Args:
        params: Settings.
        network: h.
        epochs: Epochs of the run.
    """

    Params = RegressionParams

    def __init__(self, params: RegressionParams, network: nn.Module, epochs: int) -> None:
        super().__init__()
        self.params = params
        self._network = (network,)  # trained elsewhere: no submodule
        self._epochs = epochs

    def freeze_after(self, epoch: int) -> None:
        """Batch norm keeps its statistics in the second half of the run; called with the epochs that are finished."""
        for part in self._network[0].modules():
            if isinstance(part, Branches):
                part.frozen = 2 * epoch >= self._epochs

    def refresh(self, epoch: int, current: Current) -> dict[str, float]:
        """See `freeze_after`."""
        del current
        self.freeze_after(epoch)
        return {}

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """One term, called as the error is."""
        del head
        return {self.params.error: self.errors(batch.feature, batch.columns["target"]).mean()}

    def errors(self, feature: Tensor, target: Tensor) -> Tensor:
        """The error of every row, [B]: 1 − cos, or the mean of (feature − target)² over components, targets scaled as set."""
        if self.params.error == "cosine":
            return 1 - functional.cosine_similarity(feature, target)
        scaled = target * math.sqrt(target.shape[1]) if self.params.unit else target
        return (feature - scaled).square().mean(dim=1)
