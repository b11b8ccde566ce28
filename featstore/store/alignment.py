"""Which rows of several feature sets belong together: by number within a dataset, by id across datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import AlignmentError, sample_of
from featstore.store.dataset import Dataset
from featstore.store.features import FeatureSet

__all__ = ["align", "common_rows", "ids_digest"]


def common_rows(sets: Sequence[FeatureSet], rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Rows of one dataset that are valid in every set, ascending; of `rows` if given.

    Raises:
        AlignmentError: the sets belong to different datasets (see `align`), or to both sides of a compaction.
    """
    names = {item.dataset.name for item in sets}
    if len(names) != 1:
        raise AlignmentError(
            f"{', '.join(item.name for item in sets)} are rows of different datasets",
            hint="take sets of one dataset; import features of the same rows as another set of it",
        )
    if len({item.dataset.layout for item in sets}) != 1:
        raise AlignmentError(
            f"{', '.join(item.ref for item in sets)} number their rows differently: a compaction lies between them",
            hint=f"take versions from one side of it, or finish it with `featstore compact {names.pop()}`",
        )
    keep = sets[0].valid_rows() if rows is None else np.unique(rows)
    for item in sets:
        valid = np.zeros(max(item.rows, int(keep[-1]) + 1 if len(keep) else 0), dtype=bool)
        valid[item.valid_rows()] = True
        keep = keep[valid[keep]]
    return keep


def align(
    left: FeatureSet, right: FeatureSet, *, missing: Literal["error", "drop"] = "error"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows of two sets that have the same id, in the order of the left one; valid on both sides.

    Sets of one dataset, and of two datasets whose ids have the same digest, align by number; others are joined by id,
    whatever the order of their rows.

    Args:
        left: A set.
        right: Another one, of the same dataset or of another.
        missing: What to do about ids that only one of them has: raise, or leave them out.

    Returns:
        (rows of the left set, rows of the right set), int64, of equal length.

    Raises:
        AlignmentError: ids are missing on one side, and `missing` is "error"; they are listed.
    """
    if left.dataset.name == right.dataset.name and left.dataset.layout == right.dataset.layout:
        rows = common_rows([left, right])
        return rows, rows
    left_rows, right_rows = left.dataset.live_rows(), right.dataset.live_rows()
    if len(left_rows) == len(right_rows) and ids_digest(left.dataset) == ids_digest(right.dataset):
        found = right_rows
    else:
        ids = left.dataset.ids.take(left_rows)
        found = right.dataset.ids.rows_of(ids)
        if missing == "error":
            _refuse_missing(left, right, left_rows, found)
        left_rows, found = left_rows[found >= 0], found[found >= 0]
    keep = np.isin(left_rows, left.valid_rows()) & np.isin(found, right.valid_rows())
    return left_rows[keep], found[keep]


def ids_digest(dataset: Dataset) -> str:
    """Blake3 over the ids of the rows that were not removed, in row order, hex: equal digests mean equal rows."""
    digest = blake3()
    removed = set(dataset.removed_rows.tolist())
    for row, text in enumerate(dataset.ids):
        if row not in removed:
            digest.update(text.encode() + b"\0")  # no id holds a NUL
    return digest.hexdigest()


def _refuse_missing(
    left: FeatureSet, right: FeatureSet, left_rows: NDArray[np.int64], found: NDArray[np.int64]
) -> None:
    only_left = left.dataset.ids.take(left_rows[found < 0])
    only_right = right.dataset.ids.take(np.setdiff1d(right.dataset.live_rows(), found))
    for here, there, ids in ((left, right, only_left), (right, left, only_right)):
        if ids:
            raise AlignmentError(
                f"{len(ids)} ids of dataset {here.dataset.name} are not in dataset {there.dataset.name}: {sample_of(ids)}",
                hint="add them to the other dataset, or leave them out (missing='drop')",
            )
