"""The exact nearest gallery rows of some queries, in the same order that the metrics rank them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featstore.errors import UsageError
from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking
from featstore.evaluate.scores import canonical_scores, score_error_bound
from featstore.evaluate.vectors import ArrayVectors, PreparedRows, require_one_width

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors

__all__ = ["Neighbours", "require_k", "top_k"]


class Neighbours(NamedTuple):
    """The k nearest gallery rows of each query: score descending, then gallery row ascending.

    Attributes:
        rows: int64 [Q, k]; −1 where the gallery has no more rows.
        scores: Canonical scores, float64 [Q, k]; NaN there.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]


def top_k(
    query: Vectors | NDArray[np.floating],
    gallery: Vectors | NDArray[np.floating],
    k: int,
    self_rows: NDArray[np.integer] | None = None,
    *,
    kind: ScoreKind = "cosine",
    blocking: Blocking = DEFAULT_BLOCKING,
) -> Neighbours:
    """The exact k nearest gallery rows of each query, for pages and spot checks (search uses faiss).

    Args:
        query: [Q, D], any float dtype; normalised here.
        gallery: [G, D], any float dtype; normalised here.
        k: How many, at least 1.
        self_rows: The gallery row that is left out for each query, int64 [Q], −1 for none.
        kind: What ranks.
        blocking: How to cut the work; the result does not depend on it.

    Raises:
        UsageError: `k` is below 1.
        AlignmentError: The widths differ.
        NonFiniteError: A row has no direction.
    """
    require_k(k)
    queries = PreparedRows(
        ArrayVectors(query, "queries") if isinstance(query, np.ndarray) else query, 0, kind=kind, side="query"
    )
    others = PreparedRows(
        ArrayVectors(gallery, "gallery") if isinstance(gallery, np.ndarray) else gallery, 0, kind=kind
    )
    require_one_width(queries, others)
    own = np.full(queries.rows, -1) if self_rows is None else np.asarray(self_rows)
    rows = np.full((queries.rows, k), -1, np.int64)
    scores = np.full((queries.rows, k), np.nan)
    for start, part in queries.blocks(blocking.tile_queries):
        best_query = best_rows = np.zeros(0, np.int64)
        best_scores = np.zeros(0)
        mine = own[start : start + len(part)]
        for first_row, block in others.blocks(blocking.gallery_rows):
            tile = part @ block.T
            inside = np.flatnonzero((mine >= first_row) & (mine < first_row + len(block)))
            tile[inside, mine[inside] - first_row] = -np.inf
            # A row whose GEMM score lies further than two bounds below the k-th best one cannot be among the k best.
            reach = 2 * score_error_bound(queries.width, queries.largest_norm() * others.largest_norm())
            least = np.partition(tile, -k, axis=1)[:, -k, None] if k < len(block) else -np.inf
            near_query, near = np.nonzero((tile >= least - reach) & (tile > -np.inf))
            exact = canonical_scores(part, block, near_query, near)
            best_query, best_rows, best_scores = _best(
                np.concatenate([best_query, near_query]),
                np.concatenate([best_rows, near + first_row]),
                np.concatenate([best_scores, exact]),
                k,
            )
        place = _places(best_query)
        rows[start + best_query, place] = best_rows
        scores[start + best_query, place] = best_scores
    return Neighbours(rows, scores)


def require_k(k: int) -> None:
    """Refuse to search for less than one row.

    Raises:
        UsageError: `k` is below 1.
    """
    if k < 1:
        raise UsageError(f"the {k} nearest rows were asked for", hint="ask for at least 1")


def _best(
    query: NDArray[np.int64], rows: NDArray[np.int64], scores: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The first k of each query, ordered by query, score descending and row ascending."""
    order = np.lexsort((rows, -scores, query))
    order = order[_places(query[order]) < k]
    return query[order], rows[order], scores[order]


def _places(query: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, … within each run of equal values."""
    return np.arange(len(query)) - np.searchsorted(query, query)
