"""Rows in an order that is random enough for training and near enough to the disk's for object stores and large sets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from featstore.store.features import FeatureSet

__all__ = ["shuffled"]

_BLOCK_BYTES = 8 << 20


def block_rows(row_bytes: int) -> int:
    """Rows of a block: the power of two nearest 8 MiB, whatever the shards are, so that the order depends on nothing else."""
    return 1 << max(0, round(math.log2(_BLOCK_BYTES / row_bytes)))


def shuffled(
    features: FeatureSet, rows: NDArray[np.int64], batch: int, seed: int | Sequence[int], buffer_blocks: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """See `FeatureSet.shuffled`; `rows` ascend and all have a feature."""
    random = np.random.default_rng(seed)
    blocks = rows // block_rows(features.width * features.dtype.itemsize)
    parts = np.split(rows, np.flatnonzero(np.diff(blocks)) + 1)
    order = random.permutation(len(parts))
    buffers = [
        np.concatenate([parts[number] for number in np.sort(order[first : first + buffer_blocks])])
        for first in range(0, len(order), buffer_blocks)
    ]
    left = np.zeros(0, dtype=np.int64)
    kept = np.empty((0, features.width), dtype=features.dtype)
    for numbers, values in _read_ahead(features, buffers):
        numbers, values = np.concatenate([left, numbers]), np.concatenate([kept, values])
        mixed = random.permutation(len(numbers))
        whole = len(numbers) - len(numbers) % batch
        for start in range(0, whole, batch):
            taken = mixed[start : start + batch]
            yield numbers[taken], values[taken]
        left, kept = numbers[mixed[whole:]], values[mixed[whole:]]
    if len(left):
        yield left, kept


def _read_ahead(
    features: FeatureSet, buffers: list[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Each buffer with its features; the next is read while one is used."""
    pool = ThreadPoolExecutor(1)
    ahead: Future[NDArray[Any]] | None = None
    try:
        for number, rows in enumerate(buffers):
            values = features.gather(rows) if ahead is None else ahead.result()
            if number + 1 < len(buffers):
                ahead = pool.submit(features.gather, buffers[number + 1])
            yield rows, values
    finally:
        pool.shutdown(cancel_futures=True)
