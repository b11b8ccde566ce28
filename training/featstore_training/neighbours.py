"""Nearest classes by cosine, without the matrix of all pairs.

C classes, D width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["nearest", "row_blocks"]

BLOCK_ROWS = 1024


def row_blocks(rows: int) -> Iterator[Tensor]:
    """Row numbers, a block at a time."""
    for start in range(0, rows, BLOCK_ROWS):
        yield torch.arange(start, min(start + BLOCK_ROWS, rows))


def nearest(
    query: Tensor, keys: Tensor, count: int, *, known: Tensor | None = None, own: bool = True
) -> tuple[Tensor, Tensor]:
    """The keys with the highest inner products for every query: (values, numbers), each [C, K] in falling order.

    Memory is one block of rows against all keys, 1,024 × C values.

    Args:
        query: [C, D].
        keys: [C, D].
        count: K at most; fewer where there are not as many keys.
        known: Keys that may be found, bool [C]; where fewer are left than K, values are −∞.
        own: Whether key c may be found for query c.
    """
    count = min(count, len(keys))
    parts = []
    for rows in row_blocks(len(query)):
        cosines = query[rows] @ keys.T
        if known is not None:
            cosines.masked_fill_(~known, float("-inf"))
        if not own:
            cosines[torch.arange(len(rows)), rows] = float("-inf")
        parts.append(cosines.topk(count, dim=1))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
