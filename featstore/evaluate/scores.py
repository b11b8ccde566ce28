"""The score that ranks: what it is exactly, and how far a float32 matrix product may lie from it.

A float32 GEMM changes the last bits of a score with the shape of the block it is computed in, so ranks taken from it
would depend on the block size. Here the *canonical* score of two rows is the float64 dot product of two float32 rows,
added in one fixed order. It depends on nothing but the two rows. A GEMM serves as a filter: whatever lies further than
`score_error_bound` from a value compares with it as the canonical score does.

Which rows those are depends on the kind of score:

- `cosine`: the rows L2-normalised; a row without direction is an error.
- `inner`: the rows as they are, rounded to float32.
- `euclidean`: [2q, 1, 1, 1] and [g, −a, −b, −c], where a + b + c is the float64 ‖g‖² in three float32 parts, so the
  score is 2q·g − ‖g‖² = ‖q‖² − ‖q − g‖²: for one query the order of its distances.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from featstore.errors import NonFiniteError, sample_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "FINEST_GRID",
    "SCORES",
    "UNIT_NORM",
    "ScoreKind",
    "Side",
    "canonical_scores",
    "is_exact",
    "normalise",
    "prepare",
    "score_error_bound",
]

ScoreKind = Literal["cosine", "inner", "euclidean"]
Side = Literal["query", "gallery"]

SCORES: dict[str, str] = {
    "cosine": "float64 dot product of float32 unit rows",
    "inner": "float64 dot product of float32 rows as they are stored",
    "euclidean": "least Euclidean distance of float32 rows as they are stored: 2q·g − ‖g‖², float64",
}
"""Every kind of score and what ranks by it."""

FINEST_GRID = 24
"""Rows that need a finer one are not looked at for exact products."""

_FLOAT32_ROUNDOFF = 2.0**-24
_FLOAT32_TINY = 2.0**-126
_LARGEST_NORM = 1e18
UNIT_NORM = 1.0 + 2 * _FLOAT32_ROUNDOFF
"""No norm of a row that was normalised and rounded to float32 is larger."""


Limit = TypeVar("Limit", float, "NDArray[np.float64]")


def score_error_bound(width: int, limit: Limit) -> Limit:
    """An upper bound of |float32 GEMM score − canonical score| for rows of `width` components.

    A sum of D products computed in any order, with or without fused multiply-adds, is off by at most γ_D·Σ|x_i·y_i|
    with γ_D = D·u / (1 − D·u) (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.5). Underflow,
    flushed to zero or not, adds at most a few tiny numbers per component; the float64 sum's own error is the last term.

    Args:
        width: Components of a row (D).
        limit: The product of the rows' norms, which Σ|x_i·y_i| cannot exceed; one, or one for each query.
    """
    u = _FLOAT32_ROUNDOFF
    gamma = width * u / (1 - width * u)
    return gamma * limit + width * (4 * _FLOAT32_TINY + 2.0**-52 * limit)


def is_exact(limit: float, a: int, b: int) -> bool:
    """Whether a float32 GEMM gives the canonical score of rows on coarse grids (signs, small integers) to the last bit.

    The products of components that are multiples of 2^-a and 2^-b are multiples of 2^-(a + b). As long as no partial sum
    exceeds 2^24 of these steps, float32 holds every one of them, in whatever order they are added.

    Args:
        limit: The product of the rows' norms, which no partial sum can exceed.
        a: Of the queries; more than `FINEST_GRID` says that nothing is known.
        b: Of the gallery rows, likewise.
    """
    return max(a, b) <= FINEST_GRID and limit * 2.0 ** (a + b) <= 2.0**24


def prepare(
    block: NDArray[np.floating],
    kind: ScoreKind,
    side: Side,
    *,
    what: str,
    first_row: int = 0,
    names: Callable[[Sequence[int]], list[str]] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """The float32 rows whose float64 dot products are the canonical scores, and the largest of their norms.

    Args:
        block: [n, D] float16, float32 or float64, as stored.
        kind: Which score.
        side: Whether the rows are queries or gallery rows; they differ for `euclidean`.
        what: What the rows are, for messages.
        first_row: The number of the first row, for messages.
        names: What to call rows in messages (their ids) instead of their numbers.

    Returns:
        [n, D] float32 ([n, D + 3] for `euclidean`), C order, a fresh array; and the norm, 0 for no rows.

    Raises:
        NonFiniteError: A row has NaN or infinity, or no direction when the score is a cosine.
    """
    from featstore.evaluate import _score_kernels as kernels

    if kind == "cosine":
        return normalise(block, what=what, first_row=first_row, names=names), UNIT_NORM
    with np.errstate(over="ignore"):
        rows = _as_float32(block)
    squares = kernels.squared_norms(rows)
    # Products of norms stay far below what float32 can hold.
    bad = ~(squares < _LARGEST_NORM**2)
    if bad.any():
        found = [first_row + int(row) for row in np.flatnonzero(bad)]
        raise NonFiniteError(
            f"{what}: {len(found)} of {len(block)} rows have NaN, infinity or a norm of {_LARGEST_NORM:.0e} or more: "
            + sample_of(names(found[:5]) if names else found, total=len(found)),
            hint="extract or import these again, or leave them out with --where",
        )
    if kind == "euclidean":
        rows = _for_distance(rows, squares, side)
        squares = kernels.squared_norms(rows)
    return rows, float(np.sqrt(squares.max(initial=0.0)))


def _for_distance(rows: NDArray[np.float32], squares: NDArray[np.float64], side: Side) -> NDArray[np.float32]:
    wide = np.empty((len(rows), rows.shape[1] + 3), np.float32)
    if side == "query":
        np.multiply(rows, np.float32(2), out=wide[:, :-3])
        wide[:, -3:] = 1
        return wide
    wide[:, :-3] = rows
    rest = squares.copy()
    for column in (-3, -2, -1):
        wide[:, column] = -rest
        rest += wide[:, column]
    return wide


def normalise(
    block: NDArray[np.floating],
    *,
    what: str,
    first_row: int = 0,
    names: Callable[[Sequence[int]], list[str]] | None = None,
) -> NDArray[np.float32]:
    """L2-normalise rows to float32, each row on its own, so the result does not depend on the block it is read in.

    Args:
        block: [n, D] float16, float32 or float64, not normalised.
        what: What the rows are, for messages.
        first_row: The number of the first row, for messages.
        names: What to call rows in messages (their ids) instead of their numbers.

    Returns:
        [n, D] float32, C order, a fresh array; every row has norm 1 within float32 rounding.

    Raises:
        NonFiniteError: A row has zero norm, NaN or infinity; the message counts and names them.
    """
    from featstore.evaluate import _score_kernels as kernels

    bad = np.zeros(len(block), np.uint8)
    if block.dtype == np.float16:
        raw: NDArray[np.floating] = _as_float32(block)
        unit = raw
    else:
        # arrays of one kind, so that the kernel is compiled once
        raw = np.require(block, np.float64 if block.dtype == np.float64 else np.float32, ["C", "W"])
        unit = np.empty(block.shape, np.float32)
    n_bad = kernels.normalise_rows(raw, unit, bad)
    if n_bad:
        rows = [first_row + int(row) for row in np.flatnonzero(bad)]
        zero = int((bad == 1).sum())
        raise NonFiniteError(
            f"{what}: {n_bad} of {len(block)} rows have no direction "
            f"({zero} of zero norm, {n_bad - zero} with NaN or infinity): "
            + sample_of(names(rows[:5]) if names else rows, total=len(rows)),
            hint="a cosine needs non-zero finite rows; extract or import these again, or leave them out with --where",
        )
    return unit


def _as_float32(block: NDArray[np.floating]) -> NDArray[np.float32]:
    """A fresh array in C order; float16 through a table, at four times the speed of a cast."""
    from featstore.evaluate import _score_kernels as kernels

    if block.dtype != np.float16:
        return np.array(block, np.float32, order="C")
    rows = np.empty(block.shape, np.float32)
    kernels.look_up(np.require(block, np.float16, ["C", "W"]).view(np.uint16), _every_half(), rows)
    return rows


@cache
def _every_half() -> NDArray[np.float32]:
    """All float16 numbers by their bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def canonical_scores(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    query_rows: NDArray[np.int64],
    gallery_rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Canonical scores of pairs of rows.

    Args:
        query: [Q, D] float32 unit rows, C order.
        gallery: [G, D] float32 unit rows, C order.
        query_rows: [n] rows of `query`.
        gallery_rows: [n] rows of `gallery`.

    Returns:
        [n] float64.
    """
    from featstore.evaluate import _score_kernels as kernels

    scores = np.empty(len(query_rows), np.float64)
    kernels.pair_scores(query, gallery, query_rows, gallery_rows, scores)
    return scores
