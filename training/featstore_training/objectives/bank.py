"""Each new query against every cached old feature of the training set: the cross-test itself as a loss."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from featstore_training.heads import Head
from featstore_training.objectives.bank_term import Bank, BankParams
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.mixing import Mixing, MixParams
from featstore_training.objectives.registry import objective

__all__ = ["BankObjective", "BankObjectiveParams"]


class BankObjectiveParams(BankParams):
    """Settings of `bank`.

    Attributes:
        mix: Mix old features into the classification, as `mixbct` does; null does not.
    """

    what: ClassVar[str] = "params of bank"

    mix: MixParams | None = None


@objective(
    "bank",
    summary="each new query must rank all cached old features of its class above the rest",
    paper="featstore",
)
class BankObjective(Objective):
    """ℒ = CE(head(fⁿ), y) + λ·bank, the listwise softmax of `bank_term`.

    Every prototype method takes the same term as its setting `bank`.
    """

    Params = BankObjectiveParams
    needs = frozenset({"label", "old_feature"})

    def __init__(self, params: BankObjectiveParams, side: ClassSide) -> None:
        super().__init__()
        self._bank = Bank(params, side.required_old())
        self._mixing = Mixing(params.mix, side.required_old()) if params.mix else None

    @property
    def mixer(self) -> Mixing | None:
        """Whatever `params.mix` says."""
        return self._mixing

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `classification` and `bank`."""
        return {"classification": self.classification(batch, head), "bank": self._bank.term(batch)}
