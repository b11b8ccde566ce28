"""The classes of the rows an adapter is fitted on, for methods that read labels.

N rows, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.store import Categories, FeatureSet
from featstore_training.adapters.base import Adapter, Classes
from featstore_training.adapters.config import AdapterConfig
from featstore_training.old_head import OldRun, read_old_run

__all__ = ["classes_of", "open_new_run"]


def open_new_run(method: Adapter, config: AdapterConfig, new: FeatureSet) -> OldRun | None:
    """The run that made the new set, if it was named.

    Raises:
        UsageError: the method needs it and it was not named, or the other way round.
        Whatever `read_old_run` raises.
    """
    if config.new_run is None:
        if "new_classifier" in method.needs:
            raise UsageError(
                f"'{config.loss}' needs the new model's classifier",
                hint="give the run that made the new set: --new-run FOLDER",
            )
        return None
    if "label" not in method.needs:
        raise UsageError(f"'{config.loss}' reads no classifier", hint="leave --new-run out")
    return read_old_run(config.new_run, new.space, "new")


def classes_of(rows: NDArray[np.int64], labels: Categories, new_run: OldRun | None) -> Classes:
    """Codes of these rows' classes: columns of the new classifier, or without one numbers of the classes that are there.

    Args:
        rows: Dataset rows [N].
        labels: Of the dataset.
        new_run: Has the classifier.
    """
    codes = labels.codes[rows].astype(np.int64)
    if new_run is None:
        known = np.unique(codes[codes >= 0])
        column, count = np.full(len(labels.names), -1), len(known)
        column[known] = np.arange(count)
    else:
        found = new_run.for_classes(labels.names)
        column, count = found.column.numpy(), found.head.classes
    label = np.append(column, -1)[codes]  # code −1 takes the last entry, −1
    return Classes(torch.from_numpy(label), count, new_run.head if new_run else None)
