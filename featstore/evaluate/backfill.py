"""What users see while a gallery is backfilled: a metric at every share of rows that have their new feature.

At fraction α the first ⌊α·G⌋ gallery rows of some order hold their new features, the others their old ones; queries are
new throughout. At 0 this is the cross-test, at 1 the self-test. The area under the curve has two conventions: the
trapezoid rule, and the plain mean of the points with the ends at full weight (the code of FastFill, Jaeckle et al. 2023).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import AlignmentError, BadInputError, NotFoundError, UnknownNameError, sample_of
from featstore.evaluate.arrays import evaluate_vectors
from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking
from featstore.progress import SILENT, Progress
from featstore.store import Categories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors
    from featstore.store import Dataset

__all__ = ["RANDOM", "MixedVectors", "inner_points", "row_orders"]

RANDOM = "random"
_RANDOM_ORDERS = 3


class MixedVectors:
    """A gallery in the middle of a backfill: new rows where they are there, old ones elsewhere.

    Args:
        old: [G, D].
        new: [G, D], the same rows in the same order.
        refreshed: Which rows are new, bool [G].

    Raises:
        AlignmentError: Rows or widths differ.
    """

    def __init__(self, old: Vectors, new: Vectors, refreshed: NDArray[np.bool_]) -> None:
        if (old.rows, old.width) != (new.rows, new.width) or len(refreshed) != old.rows:
            raise AlignmentError(
                f"{old} is [{old.rows}, {old.width}] and {new} is [{new.rows}, {new.width}]: they cannot stand in for "
                "one another row by row"
            )
        self._old = old
        self._new = new
        self._refreshed = refreshed
        self.rows = old.rows
        self.width = old.width

    def __str__(self) -> str:
        return f"{self._old}, partly {self._new}"

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop), in the wider of the two dtypes."""
        refreshed = self._refreshed[start:stop, None]
        if refreshed.all():
            return self._new.read(start, stop)
        if not refreshed.any():
            return self._old.read(start, stop)
        return np.where(refreshed, self._new.read(start, stop), self._old.read(start, stop))

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the old rows are called; the new ones are the same items."""
        return self._old.names(rows)


def row_orders(order: str, dataset: Dataset, rows: NDArray[np.int64], *, seed: int = 0) -> list[NDArray[np.int64]]:
    """In which order gallery rows are backfilled.

    Args:
        order: `random` (three orders, to be averaged), a column (ascending) or `-COLUMN` (descending), with missing values
            last; `row` for the order of the dataset; or `@FILE`, whose lines are ids, followed by the rest of the rows.
        dataset: What the rows are rows of.
        rows: Dataset rows of the gallery, [G].
        seed: Of the random orders.

    Returns:
        Arrays [G] of positions in `rows`, the first to be backfilled first.

    Raises:
        UnknownNameError: There is no such column.
        NotFoundError: There is no such file.
        BadInputError: The file names none of the rows.
    """
    if order == RANDOM:
        return [np.random.default_rng([seed, number]).permutation(len(rows)) for number in range(_RANDOM_ORDERS)]
    if order == "row":
        return [np.arange(len(rows))]
    if order.startswith("@"):
        return [_from_file(Path(order[1:]), dataset, rows)]
    name = order.removeprefix("-")
    if name not in dataset.column_names:
        known = [RANDOM, "row", *dataset.column_names]
        raise UnknownNameError(
            "order of a backfill", name, known, hint="-COLUMN for descending, @FILE for a list of ids"
        )
    column = dataset.column(name)
    values = _name_ranks(column)[column.codes] if isinstance(column, Categories) else np.asarray(column, np.float64)
    chosen = values[rows]
    return [np.argsort(-chosen if order.startswith("-") else chosen, kind="stable")]  # NaN comes last both ways


def _name_ranks(column: Categories) -> NDArray[np.float64]:
    """The place of each name in alphabetical order; the last entry, which code −1 takes, is NaN."""
    ranks = np.full(len(column.names) + 1, np.nan)
    ranks[np.argsort(np.array(column.names, dtype=object))] = np.arange(len(column.names))
    return ranks


def _from_file(path: Path, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if not path.is_file():
        raise NotFoundError(f"the order names {path}, which does not exist")
    listed = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    place = {row: position for position, row in enumerate(rows.tolist())}
    first = [place[row] for row in dict.fromkeys(dataset.ids.rows_of(listed).tolist()) if row in place]
    if not first:
        raise BadInputError(
            f"{path} names no row of the gallery: {sample_of(listed)}",
            hint=f"one id a line, such as {dataset.ids[int(rows[0])]}",
        )
    rest = np.ones(len(rows), bool)
    rest[first] = False
    return np.concatenate([np.array(first), np.flatnonzero(rest)])


def inner_points(
    query: Vectors,
    old: Vectors,
    new: Vectors,
    relevance: Relevance,
    metrics: Sequence[str],
    *,
    orders: Sequence[NDArray[np.int64]],
    steps: int,
    kind: ScoreKind = "cosine",
    blocking: Blocking = DEFAULT_BLOCKING,
    progress: Progress = SILENT,
    task: str = "backfill",
) -> list[dict[str, NDArray[np.float64]]]:
    """The points of a curve between its ends, which are cells of the matrix.

    Args:
        query: New queries [Q, D].
        old: The gallery before [G, D].
        new: The gallery afterwards [G, D].
        relevance: Which gallery rows answer which query.
        metrics: Names from the metric registry.
        orders: Permutations of the gallery's positions, [G]; values are averaged over them.
        steps: In how many equal steps the gallery is backfilled; point k has ⌊k·G/steps⌋ new rows.
        kind: What ranks.
        blocking: How to cut the work; no result depends on it.
        progress: Told of gallery rows.
        task: What the progress is called.

    Returns:
        For k = 1 … steps − 1, every query's values by metric, float64 [Q].
    """
    part = _Part(progress)
    progress.start(task, (steps - 1) * len(orders) * old.rows, "rows")
    points = []
    for step in range(1, steps):
        found = []
        for order in orders:
            refreshed = np.zeros(old.rows, bool)
            refreshed[order[: step * old.rows // steps]] = True
            gallery = MixedVectors(old, new, refreshed)
            measured = evaluate_vectors(query, gallery, relevance, metrics, kind=kind, blocking=blocking, progress=part)
            found.append(measured.values)
        points.append({metric: np.mean([values[metric] for values in found], axis=0) for metric in metrics})
    return points


class _Part:
    """Progress of one piece of a task that was started by someone else."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, task: str, total: int, unit: str, *, done: int = 0) -> None:
        """The whole task counts, not its pieces."""

    def advance(self, n: int) -> None:
        """Pass on what is finished."""
        self._progress.advance(n)

    def note(self, message: str) -> None:
        """Pass on a message."""
        self._progress.note(message)
