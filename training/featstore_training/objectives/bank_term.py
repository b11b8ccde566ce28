"""Each new feature as a query against all cached old features of the training rows.

B batch, N training rows, D old width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore.strict import Strict
from featstore_training.cross_entropy import streamed_logsumexp
from featstore_training.objectives.base import Batch
from featstore_training.old_rows import OldRows

__all__ = ["Bank", "BankParams"]


class BankParams(Strict):
    """The listwise term against the bank of old features.

    Attributes:
        weight: λ.
        temperature: T.
    """

    what: ClassVar[str] = "params.bank"

    weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.1, gt=0)


class Bank:
    """−1/|P(i)| Σ_{j∈P(i)} log softmax_{j≠i}(cos(fⁿᵢ, fᵒ_j)/T), P(i) the other rows of the class of row i.

    This is the cross-test itself with a softmax in place of the ranking: the gallery is the old features of the training
    rows, the query's own row left out. Old features stream past the batch, so memory is a block of them (8,192 × D) and
    its products with the batch; the positives need their class sums only.

    Args:
        params: Weight and temperature.
        old: The bank.
    """

    def __init__(self, params: BankParams, old: OldRows) -> None:
        self.params = params
        self.old = old
        prototypes = old.prototypes()
        self.counts = prototypes.counts
        self.sums = prototypes.means * self.counts[:, None]

    def term(self, batch: Batch) -> Tensor:
        """Weighted mean over rows that have another row of their class; 0 if none has."""
        others = self.counts[batch.label] - 1
        counted = others > 0
        if not bool(counted.any()):
            return batch.compared.sum() * 0
        query = functional.normalize(batch.compared[counted], dim=1) / self.params.temperature
        rows, label = batch.positions()[counted], batch.label[counted]
        with torch.no_grad():
            itself = self.old.column.take(rows.numpy()).to(query.dtype)
            positive = (self.sums[label] - itself) / others[counted, None]
        listwise = streamed_logsumexp(query, self.old.blocks, rows) - (query * positive).sum(dim=1)
        return self.params.weight * listwise.mean()
