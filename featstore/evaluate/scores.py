"""The score that ranks: what it is exactly, and how far a float32 matrix product may lie from it.

A float32 GEMM changes the last bits of a score with the shape of the block it is computed in, so ranks taken from it
would depend on the block size. Here the *canonical* score of two rows is the float64 dot product of the rows' float32
unit vectors, added in one fixed order. It depends on nothing but the two rows. A GEMM serves as a filter: whatever lies
further than `score_error_bound` from a value compares with it as the canonical score does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import NonFiniteError, sample_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["canonical_scores", "normalise", "score_error_bound"]

_FLOAT32_ROUNDOFF = 2.0**-24
_FLOAT32_TINY = 2.0**-126


def score_error_bound(width: int) -> float:
    """An upper bound of |float32 GEMM score − canonical score| for unit rows of `width` components.

    A sum of D products computed in any order, with or without fused multiply-adds, is off by at most γ_D·Σ|x_i·y_i|
    with γ_D = D·u / (1 − D·u) (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.5), and
    Σ|x_i·y_i| is at most the product of the norms, each at most 1 + u after rounding to float32. Underflow, flushed to
    zero or not, adds at most a few tiny numbers per component; the float64 sum's own error is the last term.
    """
    u = _FLOAT32_ROUNDOFF
    gamma = width * u / (1 - width * u)
    return gamma * (1 + 4 * u) + width * (4 * _FLOAT32_TINY + 2.0**-52)


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
    if block.dtype == np.float64:
        unit = np.empty(block.shape, np.float32)
        n_bad = kernels.normalise_rows(np.array(block, np.float64, order="C"), unit, bad)
    else:
        unit = np.array(block, np.float32, order="C")
        n_bad = kernels.normalise_rows(unit, unit, bad)
    if n_bad:
        rows = [first_row + int(row) for row in np.flatnonzero(bad)]
        zero = int((bad == 1).sum())
        raise NonFiniteError(
            f"{what}: {n_bad} of {len(block)} rows have no direction "
            f"({zero} of zero norm, {n_bad - zero} with NaN or infinity): "
            + sample_of(names(rows[:6]) if names else rows),
            hint="a cosine needs non-zero finite rows; extract or import these again, or leave them out with --where",
        )
    return unit


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
