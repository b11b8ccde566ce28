"""Which rows an adapter is fitted on and which it is chosen by.

N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import TrainingError, UsageError
from featstore.store import FeatureSet, common_rows
from featstore_training.adapters.config import AdapterConfig
from featstore_training.holdout import hold_out
from featstore_training.seeds import array_generator

__all__ = ["AdapterRows", "choose_adapter_rows"]

# a grid of candidates is measured on these rows, each against all others
VALIDATION_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """The rows of a fit.

    Attributes:
        fitted, validation: Dataset rows, ascending int64.
        labels: Codes of the validation rows' labels, −1 where there is none, int64.
        missing: Rows that passed the filters but lack a feature in some set; they are left out.
        unsampled: Rows left out because a sample was asked for.
    """

    fitted: NDArray[np.int64]
    validation: NDArray[np.int64]
    labels: NDArray[np.int64]
    missing: int
    unsampled: int

    @property
    def counts(self) -> dict[str, int]:
        """How many of each, for card and report."""
        sizes = {"fitted": len(self.fitted), "validation": len(self.validation)}
        return {**sizes, "missing": self.missing, "unsampled": self.unsampled}

    def digest(self) -> str:
        """Of all rows and labels, hex."""
        digest: Any = blake3()
        for array in (self.fitted, self.validation, self.labels):
            digest.update(np.int64(len(array)).tobytes() + array.tobytes())
        return str(digest.hexdigest())


def choose_adapter_rows(sets: list[FeatureSet], config: AdapterConfig) -> AdapterRows:
    """Filter, part validation rows from the others, and sample.

    Raises:
        AlignmentError: the sets belong to different datasets.
        UsageError, UnknownNameError: a filter that means nothing or leaves no row.
        TrainingError: fewer than two rows to fit on.
    """
    dataset = sets[0].dataset
    codes = dataset.labels.codes.astype(np.int64)
    usable = common_rows(sets)
    picked = dataset.select(config.where)
    named = dataset.select(config.val_where) if config.val_where else np.empty(0, dtype=np.int64)
    wanted = np.union1d(picked, named)
    kept = np.intersect1d(np.setdiff1d(picked, named), usable)
    if config.val_where:
        fitted, validation = kept, np.intersect1d(named, usable)
    else:
        held = _held_out(codes[kept], config)
        fitted, validation = kept[~held], kept[held]
    if len(validation) > VALIDATION_LIMIT:
        draw = array_generator(config.seed, "validation sample")
        validation = np.sort(draw.permutation(validation)[:VALIDATION_LIMIT])
    available = len(fitted)
    if config.pairs is not None and config.pairs < available:
        fitted = np.sort(array_generator(config.seed, "pairs").permutation(fitted)[: config.pairs])
    if len(fitted) < 2:
        raise TrainingError(
            f"{len(fitted)} rows with a feature in every set are left to fit on",
            hint=f"`featstore show {sets[0].name}` tells how many rows have one",
        )
    return AdapterRows(
        fitted=fitted,
        validation=validation,
        labels=codes[validation],
        missing=len(wanted) - len(np.intersect1d(wanted, usable)),
        unsampled=available - len(fitted),
    )


def _held_out(codes: NDArray[np.int64], config: AdapterConfig) -> NDArray[np.bool_]:
    """Rows to validate on: shares of the classes or whole classes; of rows without any label a share of all. bool [N]."""
    labelled = codes >= 0
    if labelled.any():
        held = np.zeros(len(codes), dtype=bool)
        held[labelled] = hold_out(codes[labelled], config.val_fraction, config.val_by, config.seed, VALIDATION_LIMIT)
        if held.any() or not config.val_fraction:
            return held
    if config.val_by == "class":
        raise UsageError("there are no classes to validate by", hint="leave --set val_by=class out")
    count = min(round(config.val_fraction * len(codes)), VALIDATION_LIMIT)
    held = np.zeros(len(codes), dtype=bool)
    held[array_generator(config.seed, "validation").permutation(len(codes))[:count]] = True
    return held
