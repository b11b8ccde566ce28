"""Cross-entropy over many classes, without the matrix of all logits once there are too many of them.

B batch, C columns (classes or cached rows), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["class_cross_entropy", "streamed_logsumexp"]

DENSE_COLUMNS = 8192  # up to here B × C logits and their gradient are held; beyond, B × DENSE_COLUMNS at a time
Blocks = Callable[[], Iterable[tuple[slice, Tensor]]]


def class_cross_entropy(
    query: Tensor,
    columns: Tensor,
    label: Tensor,
    *,
    own: Tensor | None = None,
    known: Tensor | None = None,
    dense: int = DENSE_COLUMNS,
) -> Tensor:
    """−log softmax_y(⟨query, column⟩) of every row, [B].

    Args:
        query: [B, D], any scale already in it.
        columns: [C, D]; gets a gradient if it wants one.
        label: int64 [B], each a known column.
        own: Logit of a row's own column [B] if it is not ⟨query, column⟩ (a margin, another prototype).
        known: Columns that exist, bool [C]; others are no competitors.
        dense: Up to how many columns the logits are held at once. Beyond, memory is O(B · dense) and the backward pass
            computes them again.
    """
    if len(columns) <= dense:
        logits = query @ columns.T
        if own is not None:
            logits = logits.scatter(1, label[:, None], own[:, None])
        if known is not None:
            logits = logits.masked_fill(~known, float("-inf"))
        return functional.cross_entropy(logits, label, reduction="none")
    if own is None:
        own = (query * columns[label]).sum(dim=1)
    others: Tensor = _BlockedLogsumexp.apply(query, columns, label, known, dense)  # type: ignore[no-untyped-call]
    return torch.logaddexp(others, own) - own


def streamed_logsumexp(query: Tensor, blocks: Blocks, skip: Tensor) -> Tensor:
    """Log Σ_j exp⟨query, key_j⟩ over keys that come in blocks and are never differentiated, [B].

    Args:
        query: [B, D].
        blocks: Yields (places, keys [n, D]); gone through once, since the gradient is a weighted mean of the same keys.
        skip: One place a row leaves out, int64 [B]; −1 for none.
    """
    result: Tensor = _StreamedLogsumexp.apply(query, blocks, skip)  # type: ignore[no-untyped-call]
    return result


class _Running:
    """log Σ exp kept stable while terms arrive, with the mean of values under the same weights if asked for."""

    def __init__(self, like: Tensor) -> None:
        self._top = like.new_full((len(like),), float("-inf"))
        self._sum = like.new_zeros(len(like))
        self._weighted = torch.zeros_like(like)

    def add(self, logits: Tensor, values: Tensor | None = None) -> None:
        top = torch.maximum(self._top, logits.max(dim=1).values)
        finite = top.masked_fill(top.isneginf(), 0.0)
        weights = (logits - finite[:, None]).exp_()
        shrink = (self._top - finite).exp()
        self._sum = self._sum * shrink + weights.sum(dim=1)
        if values is not None:
            self._weighted = self._weighted * shrink[:, None] + weights @ values
        self._top = top

    @property
    def logsumexp(self) -> Tensor:
        return self._sum.log() + self._top.masked_fill(self._top.isneginf(), 0.0)

    @property
    def mean(self) -> Tensor:
        return self._weighted / self._sum.clamp(min=torch.finfo(self._sum.dtype).tiny)[:, None]


def _without(logits: Tensor, part: slice, skip: Tensor, known: Tensor | None) -> Tensor:
    """Logits of one block with −∞ where a row's skipped column or an unknown one stands; in place."""
    inside = ((skip >= part.start) & (skip < part.stop)).nonzero().flatten()
    logits[inside, skip[inside] - part.start] = float("-inf")
    if known is not None:
        logits.masked_fill_(~known[part], float("-inf"))
    return logits


class _BlockedLogsumexp(torch.autograd.Function):
    """log Σ over all known columns but a row's skipped one; logits are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, columns: Tensor, skip: Tensor, known: Tensor | None, block: int) -> Tensor:
        running = _Running(query)
        for start in range(0, len(columns), block):
            part = slice(start, min(start + block, len(columns)))
            running.add(_without(query @ columns[part].T, part, skip, known))
        ctx.save_for_backward(query, columns, skip, known, running.logsumexp)
        ctx.block = block
        return running.logsumexp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, columns, skip, known, logsumexp = ctx.saved_tensors
        finite = logsumexp.masked_fill(logsumexp.isneginf(), 0.0)
        to_query = torch.zeros_like(query)
        to_columns = torch.zeros_like(columns) if ctx.needs_input_grad[1] else None
        for start in range(0, len(columns), ctx.block):
            part = slice(start, min(start + ctx.block, len(columns)))
            weights = (_without(query @ columns[part].T, part, skip, known) - finite[:, None]).exp_()
            weights *= gradients[0][:, None]
            to_query += weights @ columns[part]
            if to_columns is not None:
                to_columns[part] = weights.T @ query
        return to_query, to_columns, None, None, None


class _StreamedLogsumexp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, blocks: Blocks, skip: Tensor) -> Tensor:
        running = _Running(query)
        for part, keys in blocks():
            running.add(_without(query @ keys.T, part, skip, None), keys)
        ctx.save_for_backward(running.mean)
        return running.logsumexp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (mean,) = ctx.saved_tensors
        return gradients[0][:, None] * mean, None, None
