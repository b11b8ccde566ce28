"""Which row of a file goes to which row of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.convert.tables import Table
from featstore.errors import AlignmentError, AlreadyExistsError, BadInputError, sample_of
from featstore.store import Dataset, FeatureSet

__all__ = ["Joined", "check_labels", "join"]


@dataclass(frozen=True)
class Joined:
    """The rows of a file beside those of a dataset.

    Attributes:
        kept: Rows of the file that stand for themselves, ascending: all but those whose id stood there before.
        source: For each row of the dataset the row of the file, −1 where the file has none.
    """

    kept: NDArray[np.int64]
    source: NDArray[np.int64]

    def check_beyond(self, made: FeatureSet) -> None:
        """Refuse rows that a set covers already.

        Raises:
            AlreadyExistsError: there are such rows.
        """
        covered = np.flatnonzero(self.source[: made.rows] >= 0)
        if len(covered):
            ids = made.dataset.ids.take(covered[:5])
            raise AlreadyExistsError(
                f"{made.name} covers {len(covered):,} of these rows already: {sample_of(ids, total=len(covered))}",
                hint="import only rows that the dataset got since, or import under another name",
            )


def join(
    dataset: Dataset | None, table: Table, first: NDArray[np.int64] | None, *, by_position: bool = False
) -> Joined:
    """Join the rows of a file to a dataset by id, or by position if asked; without a dataset they become its rows.

    Args:
        dataset: The dataset, None for one that is to be made.
        table: The file.
        first: For each row of the file the first row with the same id; None if its ids do not count.
        by_position: Join by row number.

    Raises:
        AlignmentError: ids that the dataset does not have, no ids to join by, or another number of rows.
    """
    every = np.arange(table.rows, dtype=np.int64)
    kept = every if first is None else np.flatnonzero(first == every)
    if dataset is None:
        return Joined(kept, kept)
    if by_position:
        if table.rows != dataset.rows:
            raise AlignmentError(
                f"the file has {table.rows:,} rows, dataset {dataset.name} has {dataset.rows:,}",
                hint="leave --by-position away and join by ids",
            )
        return Joined(every, every)
    if table.ids is None:
        raise AlignmentError(
            f"the file has no ids to join dataset {dataset.name} by",
            hint="name them with --key ids=NAME or --rows FILE.csv, or say --by-position if the order is the same",
        )
    ids = [table.ids[row] for row in kept.tolist()]
    source = np.full(dataset.rows, -1, dtype=np.int64)
    source[dataset.rows_of(ids, origin="the file", advice="or import as a new dataset")] = kept
    return Joined(kept, source)


def check_labels(dataset: Dataset | None, table: Table, joined: Joined, first: NDArray[np.int64] | None) -> None:
    """Refuse labels that contradict the dataset's, or (given `first`) those of an earlier row of the same id.

    Raises:
        AlignmentError: they contradict the dataset's.
        BadInputError: they contradict each other.
    """
    if table.labels is None:
        return
    if first is not None:
        repeated = np.flatnonzero(first != np.arange(table.rows))
        differ = _differing([table.labels[row] for row in first[repeated]], [table.labels[row] for row in repeated])
        if differ:
            row = int(repeated[differ[0]])
            raise BadInputError(
                f"{len(differ):,} rows have the id of an earlier row and another label; the first is row {row}: "
                f"'{table.labels[first[row]]}' and '{table.labels[row]}'",
                hint="correct the labels, or keep the first row of each id with --duplicates first",
            )
    if dataset is not None:
        there = np.flatnonzero(joined.source >= 0)
        theirs = [table.labels[row] for row in joined.source[there].tolist()]
        ours = dataset.labels[there].texts()
        differ = _differing(ours, theirs)
        if differ:
            place = differ[0]
            raise AlignmentError(
                f"{len(differ):,} rows have another label in the file than in dataset {dataset.name}; the first is row "
                f"{joined.source[there[place]]} of the file: '{theirs[place]}' and '{ours[place]}'",
                hint="check that ids or positions mean the same images; leave labels out to keep the dataset's",
            )


def _differing(left: Sequence[str | None], right: Sequence[str | None]) -> list[int]:
    """Places where two labels are known and differ."""
    return [n for n, (a, b) in enumerate(zip(left, right, strict=True)) if a and b and a != b]
