"""Which rows train and which validate.

N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featstore.errors import TrainingError, UsageError, sample_of
from featstore.store import Dataset
from featstore_training.config import TrainConfig
from featstore_training.seeds import array_generator

__all__ = ["Rows", "choose_rows", "hold_out"]

# beyond this many validation rows an epoch's score gets no better, only slower
VALIDATION_LIMIT = 5000
LEAST_ROWS = 4  # a smaller class gives no validation rows: two of them must stay comparable, two must train


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a run.

    Attributes:
        train, validation: Dataset rows, ascending int64.
        train_labels: Class codes 0 … C−1 of the training rows, int64.
        validation_labels: Codes of the dataset's labels, int64; only equality means anything.
        class_names: Name of each training class [C], sorted.
        unlabelled: Rows that passed the filters but have no label.
        missing: Labelled rows left out because a feature set has no feature for them, or the source no image.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    validation_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    unlabelled: int
    missing: int

    @property
    def can_validate(self) -> bool:
        """Whether any validation row has another of its class, so that there is something to measure."""
        return bool((np.unique(self.validation_labels, return_counts=True)[1] > 1).any())


def choose_rows(
    dataset: Dataset, usable: NDArray[np.int64], config: TrainConfig, *, labelled_only: bool = True
) -> Rows:
    """Filter, drop unlabelled rows, and part training from validation.

    Args:
        dataset: Whose rows they are.
        usable: Rows that have everything a run reads, ascending.
        config: Filters, and how much validates.
        labelled_only: Off for a method that reads no labels: all rows train, none validates and there are no classes.

    Raises:
        UsageError, UnknownNameError: a filter that means nothing or leaves no row.
        TrainingError: fewer than two classes to train.
    """
    labels = dataset.labels
    codes = labels.codes.astype(np.int64)
    picked = dataset.select(config.where)
    validation = np.empty(0, dtype=np.int64)
    if config.val_where:
        validation = dataset.select(config.val_where)
        picked = np.setdiff1d(picked, validation)
    if not labelled_only:
        return _without_labels(picked, usable)
    wanted = np.union1d(picked, validation)
    labelled = wanted[codes[wanted] >= 0]
    kept = np.intersect1d(labelled, usable)
    train, validation = np.intersect1d(picked, kept), np.intersect1d(validation, kept)
    if not config.val_where:
        held = hold_out(codes[train], config.val_fraction, config.val_by, config.seed)
        train, validation = train[~held], train[held]
    classes, train_labels = np.unique(codes[train], return_inverse=True)
    if len(classes) < 2:
        raise TrainingError(
            f"{len(train)} labelled rows of {len(classes)} classes are left to train on; it takes two classes",
            hint=f"`featstore show {dataset.name}` shows labels and columns; the filters were: "
            f"{sample_of([*config.where, *config.val_where]) or '(none)'}",
        )
    return Rows(
        train=train,
        validation=validation,
        train_labels=train_labels.astype(np.int64),
        validation_labels=codes[validation],
        class_names=tuple(labels.names[code] for code in classes.tolist()),
        unlabelled=len(wanted) - len(labelled),
        missing=len(labelled) - len(kept),
    )


def _without_labels(picked: NDArray[np.int64], usable: NDArray[np.int64]) -> Rows:
    train, none = np.intersect1d(picked, usable), np.empty(0, dtype=np.int64)
    if len(train) < 2:
        raise TrainingError(f"{len(train)} rows are left to train on", hint="look at the filters: --where")
    missing = len(picked) - len(train)
    return Rows(train, none, np.zeros_like(train), none, (), unlabelled=0, missing=missing)


def hold_out(
    labels: NDArray[np.int64], fraction: float, by: Literal["image", "class"], seed: int, limit: int = VALIDATION_LIMIT
) -> NDArray[np.bool_]:
    """Rows to validate on, bool [N]; no more than about `limit`, classes being taken in random order until then.

    By image, every class gives its share, at least two rows (one alone has nothing to be found) and never more than half.
    By class, whole classes are taken, at least two.

    Args:
        labels: int64 [N].
        fraction: Share of the rows of each class, or of the classes.
        by: What is divided.
        seed: Same seed and labels, same rows.
        limit: About how many rows at most.

    Raises:
        UsageError: by class with fewer than four classes.
    """
    held = np.zeros(len(labels), dtype=bool)
    if not fraction or not len(labels):
        return held
    draw = array_generator(seed, "validation")
    order = np.argsort(labels, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    if by == "class" and len(members) < 4:
        raise UsageError(
            f"{len(members)} classes cannot be divided into training and validation classes",
            hint="validate by image: --val-by image",
        )
    turn = draw.permutation(len(members))
    if by == "class":
        turn = turn[: min(max(2, round(fraction * len(members))), len(members) - 2)]
    else:
        fraction = min(fraction, limit / len(labels))
    taken = 0
    for number in turn.tolist():
        rows = members[number]
        if by == "image":
            share = min(max(2, round(fraction * len(rows))), len(rows) // 2)
            rows = draw.permutation(rows)[: share if len(rows) >= LEAST_ROWS else 0]
        held[rows] = True
        taken += len(rows)
        if taken >= limit:
            break
    return held
