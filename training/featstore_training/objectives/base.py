"""What an objective is: it names the cached columns it needs and maps a batch of tensors to loss terms. It does no I/O.

B batch, C classes, N training rows, D_n new width, D_o old width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from featstore.maps import MapConfig
from featstore.strict import Strict
from featstore_training.bridges import Bridge
from featstore_training.heads import Head
from featstore_training.old_head import OldHead
from featstore_training.old_rows import OldRows
from featstore_training.prototypes import Prototypes

__all__ = ["Batch", "ClassSide", "Current", "Mixer", "Need", "NoParams", "Objective"]

Need = Literal["label", "old_feature", "prototype", "old_classifier", "side"]


class NoParams(Strict):
    """An objective without settings."""

    what: ClassVar[str] = "params"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step that have a new feature, and what classification reads where old features replace some.

    Attributes:
        feature: New features [B, D_n], with gradient.
        second: New features of another view of the same images, for objectives with two views.
        label: Class codes 0 … C−1, int64 [B].
        columns: Cached per-row columns the objective asked for; `old_feature` is [B, D_o] and `side`
            [B, S], both L2-normalised.
        rows: Positions among the training rows, int64 [B].
        bridged: New features as they are compared with old ones, [B, D_o]; None when that is `feature` itself.
        mixed: Features and labels for classification where old features stand in for some rows of the batch.
        epoch: Epochs finished before this one.
        progress: Share of the run's steps taken before this one, 0 to below 1.
        generator: For whatever the step draws; a resumed run draws the same.
    """

    feature: Tensor
    label: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Tensor | None = None
    bridged: Tensor | None = None
    mixed: tuple[Tensor, Tensor] | None = None
    epoch: int = 0
    progress: float = 0.0
    generator: torch.Generator | None = None
    second: Tensor | None = None

    @property
    def compared(self) -> Tensor:
        """New features as they are compared with old ones, [B, D_o], of any norm."""
        return self.feature if self.bridged is None else self.bridged

    def both_views(self) -> tuple[Tensor, Tensor]:
        """Features of both views, for objectives that declare two."""
        if self.second is None:
            raise LookupError("this objective needs two views of every image; it must set `views_per_step`")
        return self.feature, self.second

    def positions(self) -> Tensor:
        """`rows`, for objectives that cannot do without."""
        if self.rows is None:
            raise LookupError("this objective needs to know which training rows are in the batch")
        return self.rows


@dataclass(frozen=True, slots=True)
class ClassSide:
    """What is known before training starts.

    Attributes:
        classes: `C`.
        epochs: How many the run will have.
        prototypes: Of the cached old features [C, D_o]; None unless the objective needs `prototype`.
        old: Cached old features of the training rows; None for an objective that needs nothing old.
        old_head: The classifier that the old model was trained with; None unless the user gave its run folder.
        bridge: How new features become comparable with old ones; trained elsewhere, so never keep it as a submodule.
        module: The map or backbone that is trained; the same goes for it.
    """

    classes: int
    epochs: int
    prototypes: Prototypes | None = None
    old: OldRows | None = None
    old_head: OldHead | None = None
    bridge: Bridge | None = None
    module: nn.Module | None = None

    def required_prototypes(self) -> Prototypes:
        """The prototypes, for objectives that declare `prototype`."""
        if self.prototypes is None:
            raise LookupError("this objective was built without old prototypes; it must list 'prototype' in `needs`")
        return self.prototypes

    def required_old(self) -> OldRows:
        """The old rows, for objectives that declare `old_feature` or `prototype`."""
        if self.old is None:
            raise LookupError("this objective was built without old features; it must list 'old_feature' in `needs`")
        return self.old


class Current(Protocol):
    """The new features as they are now; each call costs one pass over the training rows."""

    def prototypes(self) -> Prototypes:
        """Class means of the new features as they are compared with old ones, [C, D_o]."""

    def by_class(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Class code, new features [n, D_n] and unit old features [n, D_o] of the rows of every class."""


class Mixer(Protocol):
    """Chooses rows whose cached old feature stands in for the new one when classifying."""

    @property
    def skip_forward(self) -> bool:
        """Whether chosen rows get no new feature at all."""

    def choose(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Rows of the batch at positions `rows`, bool [B]; never all."""


class Objective(nn.Module):
    """Base of every training method, built as `cls(params, side)`.

    Buffers and parameters are saved with the resumable state, so whatever changes during a run belongs in them;
    parameters are trained together with the map.

    Attributes:
        name, summary, paper, forms: Set by the `objective` decorator.
        Params: Settings model of the method.
        needs: Cached columns it reads; without `label` it takes unlabelled rows, too, and nothing is held out.
        compares: Whether new features are compared with old ones, so that the output space is declared compatible with
            the old one.
        old_optional: Whether it trains without an old set all the same.
        paired: Whether it compares row by row, so that with cached views both sides show the same one unless asked otherwise.
        views_per_step: How many views of every image a step shows it, 1 or 2; two need images.
        defaults: Settings of a run it takes where none are asked for, as in TrainConfig.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    Params: ClassVar[type[Strict]] = NoParams
    forms: ClassVar[Mapping[str, Mapping[str, Any]]]
    needs: ClassVar[frozenset[Need]] = frozenset({"label"})
    compares: ClassVar[bool] = True
    old_optional: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    views_per_step: ClassVar[int] = 1
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @classmethod
    def needs_with(cls, params: Any, *, side: bool = False) -> frozenset[Need]:
        """Cached columns it reads with these settings; `side` says whether there is side-information."""
        del params, side
        return cls.needs

    @classmethod
    def default_width(cls, architecture: MapConfig, new: int, old: int | None, side: int | None) -> int:
        """Output width where none is asked for, from the map's config and the widths of the sets."""
        del architecture, side
        return old or new

    @abstractmethod
    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Weighted scalar terms; their sum is minimised. Classification is one of them, so a method may replace it."""

    @property
    def mixer(self) -> Mixer | None:
        """Which rows show their old feature to the classifier; None for no mixing."""
        return None

    def classification(self, batch: Batch, head: Head) -> Tensor:
        """CE(head(f), y) over the batch, old features standing in where the mixer said so."""
        feature, label = batch.mixed or (batch.feature, batch.label)
        return head.loss(feature, label, batch.generator)

    def begin(self) -> list[str]:
        """Called once before the first epoch, not on resume. Returns notes for the user."""
        return []

    def refresh(self, epoch: int, current: Current) -> dict[str, float]:
        """Called after every epoch. Returns figures for the log.

        Args:
            epoch: Epochs finished.
            current: The present new features over the training rows.
        """
        del epoch, current
        return {}
