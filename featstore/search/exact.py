"""The exact nearest rows by faiss: its scores choose candidates, canonical scores decide between them.

A float32 score is off by at most `score_error_bound`, so when the last candidate of faiss lies further than twice that
below the k-th best canonical score, no row was missed. Where it does not (many equal scores), the evaluator's own top-k
answers. Results therefore do not depend on blocks, threads or versions of faiss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from featstore.evaluate.neighbours import Neighbours, require_k, top_k
from featstore.evaluate.scores import UNIT_NORM, canonical_scores, normalise, score_error_bound
from featstore.evaluate.vectors import PreparedRows, Vectors, require_one_width
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SPARE", "Rows", "exact_top_k", "rescored"]

SPARE = 16  # candidates beyond k, among which ties and float32 errors are sorted out
_BLOCK = 1 << 16  # gallery rows in memory at once
_QUERIES = 4096


class Rows(Vectors, Protocol):
    """A matrix that can be read row by row as well."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Rows in any order, as stored."""


def exact_top_k(query: Vectors, gallery: Rows, k: int, *, progress: Progress = SILENT) -> Neighbours:
    """The k nearest gallery rows of each query by cosine: score descending, then gallery row ascending.

    Args:
        query: [Q, D].
        gallery: [G, D].
        k: How many, at least 1.
        progress: Told of gallery rows.

    Raises:
        UsageError: `k` is below 1.
        AlignmentError: The widths differ.
        NonFiniteError: A row has no direction.
    """
    require_k(k)
    require_one_width(query, gallery)
    import faiss

    rows = np.full((query.rows, k), -1, np.int64)
    scores = np.full((query.rows, k), np.nan)
    queries, others = PreparedRows(query, 0, side="query"), PreparedRows(gallery, 0)
    wanted = min(k + SPARE, gallery.rows)
    bound = score_error_bound(query.width, UNIT_NORM**2)
    progress.start("searching", -(-query.rows // _QUERIES) * gallery.rows, "rows")
    for start, part in queries.blocks(_QUERIES):
        found_scores, found_rows = np.empty((len(part), 0), np.float32), np.empty((len(part), 0), np.int64)
        for first_row, block in others.blocks(_BLOCK):
            near_scores, near = faiss.knn(part, block, min(wanted, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            found_scores = np.concatenate([found_scores, near_scores], axis=1)
            found_rows = np.concatenate([found_rows, near + first_row], axis=1)
            best = np.argsort(-found_scores, axis=1, kind="stable")[:, :wanted]
            found_scores = np.take_along_axis(found_scores, best, axis=1)
            found_rows = np.take_along_axis(found_rows, best, axis=1)
            progress.advance(len(block))
        exact = rescored(part, gallery, found_rows, k)
        unsure = np.zeros(len(part), bool)
        if wanted < gallery.rows:
            unsure = found_scores[:, -1] + 2 * bound >= exact.scores[:, -1]
        if unsure.any():
            again = top_k(part[unsure], gallery, k)
            exact.rows[unsure], exact.scores[unsure] = again.rows, again.scores
        rows[start : start + len(part)], scores[start : start + len(part)] = exact
    return Neighbours(rows, scores)


def rescored(query: NDArray[np.float32], gallery: Rows, candidates: NDArray[np.int64], k: int) -> Neighbours:
    """The k best of some candidates by their canonical scores, from the gallery's own rows.

    Args:
        query: Unit rows [Q, D], float32, C order.
        gallery: [G, D].
        candidates: Gallery rows of each query, [Q, n], −1 for none.
        k: How many to keep.
    """
    needed = np.unique(candidates[candidates >= 0])
    unit = normalise(
        gallery.take(needed), what=str(gallery), names=lambda rows: gallery.names(needed[list(rows)].tolist())
    )
    filled = np.nonzero(candidates >= 0)
    scores = np.full(candidates.shape, -np.inf)
    scores[filled] = canonical_scores(query, unit, filled[0], np.searchsorted(needed, candidates[filled]))
    order = np.lexsort((candidates, -scores), axis=1)[:, :k]
    best_rows, best = (np.take_along_axis(values, order, axis=1) for values in (candidates, scores))
    rows, kept = np.full((len(query), k), -1, np.int64), np.full((len(query), k), np.nan)
    rows[:, : best.shape[1]] = best_rows
    kept[:, : best.shape[1]] = np.where(best_rows >= 0, best, np.nan)
    return Neighbours(rows, kept)
