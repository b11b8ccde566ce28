"""Neighbourhood-consensus contrastive learning: new features against a queue of old ones, positives weighted by trust.

B batch, Q rows of the queue, C classes, D_n new width, D_o old width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore.strict import Strict
from featstore_training.heads import Head
from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.mixing import credible_rows
from featstore_training.objectives.registry import objective

__all__ = ["Nccl", "NcclParams"]


class NcclParams(Strict):
    """Settings of `nccl`.

    Attributes:
        weight: λ.
        class_weight: μ, of the consensus between class scores; 0 leaves it out.
        classes: Class scores are `probabilities`, or `logits` as in public code.
        temperature: τ.
        queue: Q, old features kept from earlier batches.
        credible: Part of each class, the nearest to its mean, that may enter the queue; 1 lets all in.
    """

    what: ClassVar[str] = "params of nccl"

    weight: float = Field(default=1.0, ge=0)
    class_weight: float = Field(default=1.0, ge=0)
    classes: Literal["probabilities", "logits"] = "probabilities"
    temperature: float = Field(default=1.0, gt=0)
    queue: int = Field(default=4096, ge=2)
    credible: float = Field(default=1.0, gt=0, le=1)


@objective(
    "nccl",
    summary="supervised contrast with a queue of old features, positives weighted by their old similarity",
    paper="Wu et al., Neighborhood Consensus Contrastive Learning, AAAI 2022",
    forms={"features": {"class_weight": 0}, "logits": {"classes": "logits"}},
)
class Nccl(Objective):
    """ℒ = CE(head(fⁿ), y) + λ·N(f̂ⁿ, f̂ᵒ) + μ·N(head(fⁿ), head(fᵒ)), with the same consensus N of features and class scores.

    N(a, b) = −mean_i 1/|P(i)| Σ_{j∈P(i)} ½(1 + ⟨f̂ᵒᵢ, f̂ᵒ_j⟩)·log softmax_j(⟨aᵢ, b_j⟩/τ). j runs over the queue, P(i) over its
    rows of the class of i. The old features of the batch enter the queue first; rows without a positive there are left out
    of the mean. Class scores are the present head's, softmax probabilities without margin; those of old features have no
    gradient, and where widths differ old features take the bridge's transposed way to the head. Public code multiplies
    logits instead (`nccl:logits`) and keeps those of when a row entered. A step holds (B + Q) × C class scores; with very
    many classes take a shorter queue.
    """

    Params = NcclParams
    needs = frozenset({"label", "old_feature"})
    queue: Tensor
    queue_label: Tensor
    queue_end: Tensor

    def __init__(self, params: NcclParams, side: ClassSide) -> None:
        super().__init__()
        self.params = params
        old = side.required_old()
        width = old.column.width
        self._bridge = (side.bridge,)  # in a tuple, so that it is no submodule
        self._credible = None if params.credible == 1 else credible_rows(old, params.credible, column_normalised=False)
        self.register_buffer("queue", torch.zeros(params.queue, width))
        self.register_buffer("queue_label", torch.full((params.queue,), -1))
        self.register_buffer("queue_end", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `classification`, `contrast` and, with a weight, `class_contrast`."""
        old = batch.columns["old_feature"]
        self._enter(old, batch)
        queue = self.queue.to(old.dtype)
        trust = (1 + old @ queue.T) / 2
        products = functional.normalize(batch.compared, dim=1) @ queue.T
        terms = {
            "classification": self.classification(batch, head),
            "contrast": self.params.weight * self._consensus(products, trust, batch.label),
        }
        if self.params.class_weight:
            scores = self._scores(head, batch.feature)
            products = scores @ self._old_scores(head, queue).T
            terms["class_contrast"] = self.params.class_weight * self._consensus(products, trust, batch.label)
        return terms

    def _consensus(self, products: Tensor, trust: Tensor, label: Tensor) -> Tensor:
        """N of inner products with the queue [B, Q]."""
        products = products / self.params.temperature
        logarithm = products.masked_fill(self.queue_label < 0, float("-inf")).log_softmax(dim=1)
        positive = label[:, None] == self.queue_label
        weighted = torch.where(positive, trust * logarithm, 0.0).sum(dim=1)
        counts = positive.sum(dim=1)
        counted = counts > 0
        return -(weighted[counted] / counts[counted]).mean() if bool(counted.any()) else products.sum() * 0

    def _scores(self, head: Head, feature: Tensor) -> Tensor:
        """Class scores [B, C] of features [B, D_n]."""
        logits = head.logits(feature)
        return logits.softmax(dim=1) if self.params.classes == "probabilities" else logits

    @torch.no_grad()
    def _old_scores(self, head: Head, queue: Tensor) -> Tensor:
        """Those of the queued old features, [Q, C]."""
        [bridge] = self._bridge
        return self._scores(head, queue if bridge is None else bridge.back(queue))

    @torch.no_grad()
    def _enter(self, old: Tensor, batch: Batch) -> None:
        """Write the batch over the oldest rows of the queue."""
        label = batch.label
        if self._credible is not None:
            trusted = self._credible[batch.positions()]
            old, label = old[trusted], label[trusted]
        old, label = old[-len(self.queue) :], label[-len(self.queue) :]
        places = (int(self.queue_end) + torch.arange(len(old))) % len(self.queue)
        self.queue[places] = old.to(self.queue.dtype)
        self.queue_label[places] = label
        self.queue_end += len(old)
