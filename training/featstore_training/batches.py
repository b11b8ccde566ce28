"""Training rows as batches of tensors, read from cached features.

N training rows, B batch, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from featstore.errors import TrainingError, sample_of
from featstore.store import FeatureSet
from featstore_training.inputs import Inputs, Unchanging
from featstore_training.old_rows import Column, HeldColumn
from featstore_training.samplers import SamplerName, epoch_batches
from featstore_training.seeds import array_generator, tensor_generator

__all__ = ["CachedBatch", "CachedColumn", "TrainingRows"]

# columns up to this size are held in memory as float32; larger ones are gathered batch by batch
RESIDENT_BYTES = 2 * 2**30


class CachedColumn(Unchanging):
    """Some rows of a feature set as float32, addressed by their position among these rows.

    Args:
        features: Where they come from.
        rows: Dataset rows [N].
        unit: L2-normalise on read; for features that are compared by cosine.
        resident_bytes: Hold them in memory up to this size.

    Raises:
        TrainingError: `unit` and a row has no direction, while reading.
    """

    def __init__(
        self, features: FeatureSet, rows: NDArray[np.int64], *, unit: bool, resident_bytes: int = RESIDENT_BYTES
    ) -> None:
        self._features = features
        self._rows = rows
        self._unit = unit
        self._held: HeldColumn | None = None
        if len(rows) * features.width * 4 <= resident_bytes:
            self._held = HeldColumn(self._read(rows))

    @property
    def width(self) -> int:
        """D."""
        return self._features.width

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Rows by position, float32 [len(positions), D]."""
        if self._held is not None:
            return self._held.take(positions)
        return self._read(self._rows[positions])

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order: (positions, float32 [n, D])."""
        if self._held is not None:
            yield from self._held.blocks()
            return
        for start in range(0, len(self), self.block_rows):
            part = slice(start, min(start + self.block_rows, len(self)))
            yield part, self._read(self._rows[part])

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        block = torch.from_numpy(self._features.gather(rows).astype(np.float32))
        if not self._unit:
            return block
        norm = block.norm(dim=1)
        if not bool((norm > 0).all()):
            ids = self._features.dataset.ids.take(rows[(norm == 0).numpy()][:5])
            raise TrainingError(
                f"features of {self._features.ref} with norm 0 have no direction to compare: {sample_of(ids)}",
                hint="leave these rows out: --where id!=@FILE",
            )
        return functional.normalize(block, dim=1)


@dataclass(frozen=True, slots=True)
class CachedBatch:
    """Rows of one step, nothing read yet.

    Attributes:
        rows: Positions among the training rows, int64 [B].
        label: int64 [B].
        generator: Of this step, seeded by run, epoch and step.
    """

    rows: Tensor
    label: Tensor
    generator: torch.Generator


class TrainingRows:
    """All training rows.

    Args:
        inputs: New backbone's features, or images.
        labels: Class codes 0 … C−1, int64 [N].
        classes: `C`.
        columns: Cached columns that batches carry, by name.
    """

    def __init__(self, inputs: Inputs, labels: Tensor, classes: int, columns: dict[str, Column]) -> None:
        self.inputs = inputs
        self.labels = labels
        self.classes = classes
        self._columns = columns

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, batch: int) -> int:
        """Batches of an epoch."""
        return -(-len(self) // batch)

    def batches(
        self, batch: int, seed: int, epoch: int, *, sampler: SamplerName = "shuffle", per_class: int = 1
    ) -> Iterator[CachedBatch]:
        """The batches of an epoch, which seed and epoch fix; see `samplers`."""
        draw = array_generator(seed, f"epoch {epoch}")
        for step, positions in enumerate(epoch_batches(self.labels.numpy(), batch, sampler, per_class, draw)):
            rows = torch.from_numpy(positions)
            yield CachedBatch(rows, self.labels[rows], tensor_generator(seed, f"epoch {epoch} step {step}"))

    def columns_at(self, rows: Tensor, epoch: int) -> dict[str, Tensor]:
        """What batches of an epoch carry, of these rows [B]."""
        return {name: column.training(rows.numpy(), epoch) for name, column in self._columns.items()}

    def input_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every component of features, float64 [D] each; two passes."""
        zero, count = torch.zeros((), dtype=torch.float64), len(self)
        mean = sum((block.double().sum(dim=0) for _, block in self.inputs.blocks()), zero) / count
        square = sum(((block.double() - mean).square().sum(dim=0) for _, block in self.inputs.blocks()), zero) / count
        return mean, square.sqrt()
