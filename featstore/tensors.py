"""A feature set's rows as torch tensors, without copies where its rows are views of a file on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featstore.store import FeatureSet

__all__ = ["Tensors"]


class Tensors:
    """Reads like the feature set, in tensors of the stored dtype.

    A block of `scan` may be a view of a file. Writing to it changes no file, but what this process reads later.

    Example:
        >>> import tempfile
        >>> from featstore.spaces import Space
        >>> from featstore.store import NewRows, Store
        >>> store = Store.init(tempfile.mkdtemp() + "/team")
        >>> cats = store.create_dataset("cats", NewRows(ids=["a.jpg", "b.jpg"]))
        >>> job = store.plan_features(cats, "old", Space.named("resnet", 2), np.dtype("float32"), shard_rows=8)
        >>> _ = job.publish(0, np.eye(2, dtype=np.float32)), job.commit({})
        >>> Tensors(store.features("cats/old")).gather([1, 0])
        tensor([[0., 1.],
                [1., 0.]])
    """

    def __init__(self, features: FeatureSet) -> None:
        self.features = features

    def gather(self, rows: Tensor | NDArray[np.int64] | Sequence[int], out: Tensor | None = None) -> Tensor:
        """Rows in any order as [len(rows), D]; see `FeatureSet.gather`. `out` is on the CPU."""
        numbers = rows.numpy() if isinstance(rows, Tensor) else rows
        if out is None:
            return torch.from_numpy(self.features.gather(numbers))
        self.features.gather(numbers, out.numpy())
        return out

    def take_ids(self, ids: Sequence[str]) -> Tensor:
        """Features of some ids, in the order given."""
        return torch.from_numpy(self.features.take_ids(ids))

    def scan(self, batch: int | None = None, rows: tuple[int, int] | None = None) -> Iterator[tuple[int, Tensor]]:
        """Blocks in row order: (first row, [b, D]); see `FeatureSet.scan`."""
        for first, block in self.features.scan(batch, rows):
            yield first, torch.from_numpy(block)

    def shuffled(
        self,
        batch: int,
        seed: int | Sequence[int],
        *,
        buffer_blocks: int = 8,
        rows: Tensor | NDArray[np.int64] | Sequence[int] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Random batches: (row numbers [b], features [b, D]); see `FeatureSet.shuffled`."""
        numbers = rows.numpy() if isinstance(rows, Tensor) else rows
        for taken, values in self.features.shuffled(batch, seed, buffer_blocks=buffer_blocks, rows=numbers):
            yield torch.from_numpy(taken), torch.from_numpy(values)
