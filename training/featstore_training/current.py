"""The new features as they are between two epochs, for objectives that follow them.

C classes, D_n new width, D_o old width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from featstore_training.batches import TrainingRows
from featstore_training.bridges import Bridge
from featstore_training.old_rows import OldRows, class_members
from featstore_training.prototypes import Prototypes, class_means

__all__ = ["CurrentFeatures"]


class CurrentFeatures:
    """The map or backbone applied to the training rows as they are, in eval mode and without gradient.

    Args:
        module: The map or backbone.
        bridge: How its features are compared with old ones.
        rows: The training rows.
        old: Their old features, if the objective reads any.
    """

    def __init__(self, module: nn.Module, bridge: Bridge, rows: TrainingRows, old: OldRows | None) -> None:
        self._module = module
        self._bridge = bridge
        self._rows = rows
        self._old = old

    def prototypes(self) -> Prototypes:
        """Class means of the compared features, [C, D_o]; one pass."""
        labels = self._rows.labels
        blocks = ((self._bridge(self._apply(block)), labels[part]) for part, block in self._rows.inputs.blocks())
        with torch.no_grad():
            return class_means(blocks, self._rows.classes)

    def by_class(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Class code, new features [n, D_n] and unit old features [n, D_o] of the rows of every class; one pass."""
        if self._old is None:
            raise LookupError("this objective follows old rows; it must list 'old_feature' in `needs`")
        for code, members in class_members(self._rows.labels):
            inputs, most = self._rows.inputs, self._rows.inputs.block_rows
            parts = [members[start : start + most] for start in range(0, len(members), most)]
            new = torch.cat([self._apply(inputs.take(part)) for part in parts])
            yield code, new, self._old.column.take(members)

    @torch.no_grad()
    def _apply(self, inputs: Tensor) -> Tensor:
        was_training = self._module.training
        self._module.eval()
        feature: Tensor = self._module(inputs)
        self._module.train(was_training)
        return feature
