"""What users see while a gallery is backfilled: a metric at every share of rows that have their new feature.

At fraction α the first ⌊α·G⌋ gallery rows of some order hold their new features, the others their old ones; queries are
new throughout. At 0 this is the cross-test, at 1 the self-test. The area under the curve has two conventions: the
trapezoid rule, and the plain mean of the points with the ends at full weight (the code of FastFill, Jaeckle et al. 2023).

With two indexes no row is compared across models: old queries search the rows that are not backfilled yet, new queries those
that are, and both lists are merged by distance (distance rank merge, Seo et al., "Online backfilling", 2023). At 0 this is
old/old, at 1 the self-test. No map is needed for it, but both models run on every query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import AlignmentError
from featstore.evaluate.arrays import evaluate_vectors
from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking
from featstore.evaluate.vectors import SideBySide, UnitVectors
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors

__all__ = ["MixedVectors", "TwoIndexVectors", "inner_points", "two_index_points"]


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


class TwoIndexVectors:
    """The rows of two indexes as one gallery of inner products: an old row stands left of zeros, a new one right of them.

    With queries [q_old, q_new] of unit parts the score of a row is its cosine in the index that holds it.

    Args:
        old: [G, D_o], of norm 1.
        new: [G, D_n], of norm 1, the same rows in the same order.
        refreshed: Which rows are in the new index, bool [G].
    """

    def __init__(self, old: Vectors, new: Vectors, refreshed: NDArray[np.bool_]) -> None:
        if old.rows != new.rows or len(refreshed) != old.rows:
            raise AlignmentError(f"{old} has {old.rows} rows and {new} {new.rows}: two indexes hold the same items")
        self._old = old
        self._new = new
        self._refreshed = refreshed
        self.rows = old.rows
        self.width = old.width + new.width

    def __str__(self) -> str:
        return f"{self._old} beside {self._new}"

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows [start, stop), float32."""
        refreshed = self._refreshed[start:stop, None]
        halves = (
            np.where(refreshed, 0, self._old.read(start, stop)),
            np.where(refreshed, self._new.read(start, stop), 0),
        )
        return np.concatenate(halves, axis=1, dtype=np.float32)

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the old rows are called; the new ones are the same items."""
        return self._old.names(rows)


def inner_points(
    query: Vectors,
    old: Vectors,
    new: Vectors,
    relevance: Relevance,
    metrics: Sequence[str],
    *,
    orders: Sequence[NDArray[np.int64]],
    shares: Sequence[float],
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
        shares: Shares of the gallery that are backfilled; at share α, ⌊α·G⌋ rows are new.
        kind: What ranks.
        blocking: How to cut the work; no result depends on it.
        progress: Told of gallery rows.
        task: What the progress is called.

    Returns:
        For each share, every query's values by metric, float64 [Q].
    """
    return _points(
        query,
        lambda refreshed: MixedVectors(old, new, refreshed),
        relevance,
        metrics,
        orders=orders,
        shares=shares,
        kind=kind,
        blocking=blocking,
        progress=progress,
        task=task,
    )


def two_index_points(
    queries: tuple[Vectors, Vectors],
    galleries: tuple[Vectors, Vectors],
    relevance: Relevance,
    metrics: Sequence[str],
    *,
    orders: Sequence[NDArray[np.int64]],
    shares: Sequence[float],
    blocking: Blocking = DEFAULT_BLOCKING,
    progress: Progress = SILENT,
    task: str = "backfill",
) -> list[dict[str, NDArray[np.float64]]]:
    """The same for two indexes whose answers are merged by cosine distance; arguments as for `inner_points`.

    Args:
        queries: As the old model sees them [Q, D_o], and as the new one does [Q, D_n].
        galleries: The same items before [G, D_o] and afterwards [G, D_n].
        relevance: Which gallery rows answer which query.
        metrics: Names from the metric registry.
        orders: Permutations of the gallery's positions, [G].
        shares: Shares of the gallery that are backfilled.
        blocking: How to cut the work; no result depends on it.
        progress: Told of gallery rows.
        task: What the progress is called.
    """
    query = SideBySide([UnitVectors(side) for side in queries])
    old, new = (UnitVectors(side) for side in galleries)
    return _points(
        query,
        lambda refreshed: TwoIndexVectors(old, new, refreshed),
        relevance,
        metrics,
        orders=orders,
        shares=shares,
        kind="inner",
        blocking=blocking,
        progress=progress,
        task=task,
    )


def _points(
    query: Vectors,
    gallery_of: Callable[[NDArray[np.bool_]], Vectors],
    relevance: Relevance,
    metrics: Sequence[str],
    *,
    orders: Sequence[NDArray[np.int64]],
    shares: Sequence[float],
    kind: ScoreKind,
    blocking: Blocking,
    progress: Progress,
    task: str,
) -> list[dict[str, NDArray[np.float64]]]:
    part = _Part(progress)
    rows = len(orders[0])
    progress.start(task, len(shares) * len(orders) * rows, "rows")
    points = []
    for share in shares:
        found = []
        for order in orders:
            refreshed = np.zeros(rows, bool)
            refreshed[order[: int(share * rows + 1e-9)]] = True
            gallery = gallery_of(refreshed)
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
