"""What an objective is: it names the cached columns it needs and maps a batch of tensors to loss terms. It does no I/O.

B batch, C classes, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from featstore_training.heads import CosineSoftmax
from featstore_training.prototypes import Prototypes
from featstore_training.strict import Strict

__all__ = ["Batch", "ClassSide", "Need", "NoParams", "Objective"]

Need = Literal["label", "old_feature", "prototype"]


class NoParams(Strict):
    """An objective without settings."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step.

    Attributes:
        feature: New features [B, D], with gradient.
        label: Class codes 0 … C−1, int64 [B].
        columns: Cached per-row columns the objective asked for; `old_feature` is [B, D], L2-normalised.
    """

    feature: Tensor
    label: Tensor
    columns: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class ClassSide:
    """What is known of the classes before training starts.

    Attributes:
        classes: `C`.
        epochs: How many the run will have.
        prototypes: Of the cached old features [C, D]; None unless the objective needs `prototype`.
    """

    classes: int
    epochs: int
    prototypes: Prototypes | None = None

    def required_prototypes(self) -> Prototypes:
        """The prototypes, for objectives that declare `prototype`."""
        if self.prototypes is None:
            raise LookupError("this objective was built without old prototypes; it must list 'prototype' in `needs`")
        return self.prototypes


class Objective(nn.Module):
    """Base of every training method, built as `cls(params, side)`.

    Buffers and parameters are saved with the resumable state, so whatever changes during a run belongs in them;
    parameters are trained together with the map.

    Attributes:
        name, summary, paper: Set by the `objective` decorator.
        Params: Settings model of the method.
        needs: Cached columns it reads.
        compares: Whether new features are compared with old ones, so that widths must be equal and the output space is
            declared compatible with the old one.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    Params: ClassVar[type[Strict]] = NoParams
    needs: ClassVar[frozenset[Need]] = frozenset({"label"})
    compares: ClassVar[bool] = True

    @abstractmethod
    def loss(self, batch: Batch, head: CosineSoftmax) -> dict[str, Tensor]:
        """Weighted scalar terms; their sum is minimised. Classification is one of them, so a method may replace it."""

    def begin(self) -> list[str]:
        """Called once before the first epoch, not on resume. Returns notes for the user."""
        return []

    def refresh(self, epoch: int, current: Callable[[], Prototypes]) -> dict[str, float]:
        """Called after every epoch. Returns figures for the log.

        Args:
            epoch: Epochs finished.
            current: Computes the prototypes of the current new features over the training rows; costs one pass.
        """
        del epoch, current
        return {}
