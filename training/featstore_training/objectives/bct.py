"""Backward-compatible training: the old classifier, or old class prototypes in its place, must be right on new features."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from featstore_training.cross_entropy import class_cross_entropy
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, Need
from featstore_training.objectives.prototype_softmax import PrototypeObjective, PrototypeParams
from featstore_training.objectives.registry import objective

__all__ = ["Bct", "BctParams"]


class BctParams(PrototypeParams):
    """Settings of `bct`.

    Attributes:
        against: `prototype` takes class means of the old features, `classifier` the classifier the old model was trained
            with (its run folder is given with `old_run`).
    """

    what: ClassVar[str] = "params of bct"

    against: Literal["prototype", "classifier"] = "prototype"


@objective(
    "bct",
    summary="new features must be classified right by the old class prototypes or the old classifier",
    paper="Shen et al., Towards Backward-Compatible Representation Learning, CVPR 2020",
    forms={"prototype": {"against": "prototype"}, "classifier": {"against": "classifier"}},
)
class Bct(PrototypeObjective):
    """ℒ = CE(head(fⁿ), y) + λ·CE(old(fⁿ), y).

    `bct:prototype`: old(f) = γ·cos(f, p_c), p_c the normalised mean of unit old features of class c (the paper's
    synthesised classifier). `bct:classifier`: old(f) is the old head's own forward pass without its margin; rows of
    classes it does not know are left out of the term.
    """

    Params = BctParams
    column: Tensor

    def __init__(self, params: BctParams, side: ClassSide) -> None:
        super().__init__(params, side)
        self.params = params
        self._old_head: Head | None = None
        if params.against == "classifier":
            if side.old_head is None:
                raise LookupError("bct:classifier was built without the old classifier")
            # frozen and read again on resume, so it is kept out of the parameters that are trained and saved
            object.__setattr__(self, "_old_head", side.old_head.head)
            self.register_buffer("column", side.old_head.column)

    @classmethod
    def needs_with(cls, params: BctParams, *, side: bool = False) -> frozenset[Need]:
        """The old classifier, if it is to be right."""
        return super().needs_with(params, side=side) | (
            {"old_classifier"} if params.against == "classifier" else frozenset()
        )

    def begin(self) -> list[str]:
        """Counts the classes that the old classifier does not know."""
        if self._old_head is None:
            return []
        unknown = int((self.column < 0).sum())
        what = f"bct:classifier: {unknown} of {len(self.column)} classes are unknown to the old classifier"
        return [f"{what}; their rows are left out of the influence term"] if unknown else []

    def influence(self, batch: Batch, head: Head) -> Tensor:
        """The old classifier's cross-entropy, or the prototypes'."""
        if self._old_head is None:
            return super().influence(batch, head)
        column = self.column[batch.label]
        counted = column >= 0
        if not bool(counted.any()):
            return batch.compared.sum() * 0
        query = self._old_head.query(batch.compared[counted])
        with torch.no_grad():
            columns = self._old_head.columns()
        return class_cross_entropy(query, columns, self._old_column(column[counted])).mean()

    def _old_column(self, old_class: Tensor) -> Tensor:
        """Where the classes stand among the old head's columns."""
        vertex = getattr(self._old_head, "vertex", None)
        return old_class if vertex is None else vertex[old_class]
