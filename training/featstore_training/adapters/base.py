"""What an adapter is: a map between the spaces of two models, fitted on rows that both have encoded, without labels.

N rows, D_x width that goes in, D_y width that comes out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from featstore.maps import FeatureMap
from featstore.progress import SILENT, Progress
from featstore.strict import Strict
from featstore_training.adapters.config import Direction
from featstore_training.adapters.moments import Moments
from featstore_training.heads import Head
from featstore_training.old_rows import Column

__all__ = ["Adapter", "Candidate", "Choose", "Classes", "Pairs", "Work"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the maps that a method could come to.

    Attributes:
        settings: What tells it from the others, as JSON.
        module: The map, in eval mode.
        uncertainty: From what the map puts out to how uncertain it is of a row; None for a map that does not know.
    """

    settings: dict[str, Any]
    module: FeatureMap
    uncertainty: FeatureMap | None = None


Choose = Callable[[Iterator[Candidate]], Candidate]
"""Picks the candidate with the best held-out retrieval; of equal ones the first."""


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of some rows.

    Attributes:
        label: Class codes 0 … C−1, int64 [N]; −1 for a row without a class, or with one that the classifier does not know.
        count: C.
        head: The new model's classifier, frozen, whose columns the codes are; None if the run that has it was not named.
    """

    label: Tensor
    count: int
    head: Head | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """The same rows as two models see them, float32, of norm 1 unless the method asks otherwise.

    Attributes:
        x: What goes in, side-information behind it, [N, D_x].
        y: What shall come out, [N, D_y].
        classes: Of the rows, for methods that need labels.
    """

    x: Column
    y: Column
    classes: Classes | None = None

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All pairs, some at a time."""
        for (_, x), (_, y) in zip(self.x.blocks(), self.y.blocks(), strict=True):
            yield x, y

    def moments(self) -> Moments:
        """Their sums; one pass."""
        return Moments.of(self.blocks(), self.x.width, self.y.width)

    def reversed(self) -> Pairs:
        """The same pairs, the other way round."""
        return Pairs(self.y, self.x, self.classes)

    def required_classes(self) -> Classes:
        """The classes, for methods that list `label` in `needs`."""
        if self.classes is None:
            raise LookupError("this adapter must list 'label' in `needs`")
        return self.classes

    def labelled(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Pairs and class codes of the rows that have a class, some at a time."""
        start, label = 0, self.required_classes().label
        for x, y in self.blocks():
            codes = label[start : start + len(x)]
            known = codes >= 0
            yield x[known], y[known], codes[known]
            start += len(x)


@dataclass(frozen=True, slots=True)
class Work:
    """Where and how a fit runs.

    Attributes:
        seed: Of whatever is drawn.
        folder: The run folder; trained adapters keep their checkpoint there.
        request: The run as JSON; a checkpoint of another request is never continued.
        sides: Widths of the side-information at the end of x.
        progress: Told of epochs.
    """

    seed: int
    folder: Path
    request: dict[str, Any] = field(default_factory=dict)
    sides: tuple[int, ...] = ()
    progress: Progress = SILENT


class Adapter(ABC):
    """Base of every adapter, built as `cls(params)`.

    Attributes:
        name: What `--loss` takes.
        summary: One line.
        paper: Where it comes from.
        Params: Settings model of the method.
        forms: Settings that have a name of their own, used as `--loss NAME:FORM`.
        needs: Cached columns it reads; with `new_classifier` the run that made the new set must be named.
        takes_side: Whether it reads side-information.
        takes_views: Whether it is trained step by step, so that cached views of the rows can stand in for them.
        takes_target: Whether it reads the other model's feature of a row too, behind its own: that model has to run as well.
        directions: What it can map, the default first.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    Params: ClassVar[type[Strict]]
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs: ClassVar[frozenset[str]] = frozenset({"new_feature", "old_feature"})
    directions: ClassVar[tuple[Direction, ...]] = ("new-to-old", "old-to-new")

    def __init__(self, params: Any) -> None:
        self.params = params

    takes_side: ClassVar[bool] = False
    takes_views: ClassVar[bool] = False
    takes_target: ClassVar[bool] = False

    @property
    def unit(self) -> bool:
        """Whether pairs have norm 1."""
        return True

    @abstractmethod
    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """The map for these pairs.

        Args:
            pairs: What to fit.
            choose: Decides between candidates by held-out retrieval.
            work: Seed, folder and the like.

        Raises:
            TrainingError: these pairs do not determine such a map.
        """
