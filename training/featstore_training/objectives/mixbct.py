"""One classifier for a mixture of old and new features."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from featstore.errors import UsageError
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.mixing import Mixing, MixParams
from featstore_training.objectives.registry import objective

__all__ = ["MixBct", "MixBctParams"]


class MixBctParams(MixParams):
    """Settings of `mixbct`; see `MixParams`."""

    what: ClassVar[str] = "params of mixbct"


@objective(
    "mixbct",
    summary="one classifier for batches in which old features replace part of the new ones",
    paper="Liang et al., MixBCT, arXiv:2308.06948, 2023",
    forms={"unnormalised": {"column_normalised": False}},
)
class MixBct(Objective):
    """ℒ = CE(head(f), y) with f = f̂ᵒᵢ for ⌊αB⌋ random credible rows i of the batch and fⁿᵢ for the others.

    A single loss without a weight. It needs a head that looks at directions only, since old features come with norm 1.
    """

    Params = MixBctParams
    needs = frozenset({"label", "old_feature"})
    paired = True

    def __init__(self, params: MixBctParams, side: ClassSide) -> None:
        super().__init__()
        self._mixing = Mixing(params, side.required_old())

    @property
    def mixer(self) -> Mixing:
        """The mixing that is the method."""
        return self._mixing

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """One term, `classification`."""
        if not head.cosine:
            raise UsageError(
                "mixbct mixes unit old features with new ones of any norm, which a softmax head tells apart by norm",
                hint="--set head.name=cosine, arcface or cosface",
            )
        return {"classification": self.classification(batch, head)}
