"""Compiled loops over rows: normalisation and the canonical score. See `scores.py` for what they mean.

Q queries, G gallery rows, D width, P positives of all queries together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from featstore.evaluate._compile import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["dot", "grid_of", "normalise_rows", "pair_scores", "score_listed", "squared_norms"]


def _typed_eight_sums(
    _context: Any, x: types.Array, _p: types.Integer, y: types.Array, _r: types.Integer, _whole: types.Integer
) -> tuple[Any, Callable[..., Any]]:
    """Sums of x[p, i]·y[r, i] over i ≡ 0, 1, … 7 (mod 8), for i below `whole`, a multiple of 8.

    Written as LLVM vectors because the compiler does not find them: with one vector register of eight sums a pair takes
    a third of the time of eight scalar ones. Multiplication and addition may contract to a fused multiply-add, which
    gives the same bits since the product is exact.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        floats, doubles = ir.VectorType(ir.FloatType(), 8), ir.VectorType(ir.DoubleType(), 8)
        rows = []
        for place in (0, 2):
            array = context.make_array(signature.args[place])(context, builder, args[place])
            width = builder.extract_value(array.shape, 1)
            rows.append(builder.gep(array.data, [builder.mul(args[place + 1], width)]))
        sums = cgutils.alloca_once_value(builder, ir.Constant(doubles, [0.0] * 8))  # type: ignore[no-untyped-call]
        start, step = ir.Constant(args[4].type, 0), ir.Constant(args[4].type, 8)
        with cgutils.for_range_slice(builder, start, args[4], step, intp=args[4].type) as (index, _):
            wide = []
            for row in rows:
                value = builder.load(builder.bitcast(builder.gep(row, [index]), floats.as_pointer()))
                value.align = 4
                wide.append(builder.fpext(value, doubles))
            product = builder.fmul(*wide, flags=("contract",))
            builder.store(builder.fadd(builder.load(sums), product, flags=("contract",)), sums)
        total = builder.load(sums)
        lanes = [builder.extract_element(total, ir.Constant(ir.IntType(32), lane)) for lane in range(8)]
        return context.make_tuple(builder, signature.return_type, lanes)

    eight: Any = types.UniTuple(types.float64, 8)  # type: ignore[no-untyped-call]
    return eight(x, types.intp, y, types.intp, types.intp), codegen


_eight_sums: Callable[..., tuple[float, ...]] = intrinsic(_typed_eight_sums)


@compiled
def dot(x: NDArray[np.float32], p: int, y: NDArray[np.float32], r: int) -> float:
    """The float64 dot product of rows x[p] and y[r], both [.., D] in C order, added in one fixed order.

    Component i is added to running sum i mod 8, those after the last full eight to the first sum; then the sums are
    added pairwise. The product of two float32 values is exact in float64, so a fused multiply-add gives the same bits
    on every processor; eight sums instead of one because additions that wait for each other would take most of the
    time. Rows are given by number, because a view of a row would be counted atomically.
    """
    width = x.shape[1]
    whole = width - width % 8
    s0, s1, s2, s3, s4, s5, s6, s7 = _eight_sums(x, p, y, r, whole)
    for i in range(whole, width):
        s0 += np.float64(x[p, i]) * np.float64(y[r, i])
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@compiled
def normalise_rows(raw: NDArray[np.floating], unit: NDArray[np.float32], bad: NDArray[np.uint8]) -> int:
    """Divide the rows of raw [n, D], float32 or float64, by their float64 norms.

    The result goes to unit [n, D], which may be raw itself; rows without direction are not written. bad [n]
    becomes 1 for a row of zero norm and 2 for one whose norm is not finite. Returns how many there are.
    """
    n_bad = 0
    for row in range(raw.shape[0]):
        s0 = s1 = s2 = s3 = 0.0
        width = raw.shape[1]
        whole = width - width % 4
        for i in range(0, whole, 4):
            s0 += np.float64(raw[row, i]) * np.float64(raw[row, i])
            s1 += np.float64(raw[row, i + 1]) * np.float64(raw[row, i + 1])
            s2 += np.float64(raw[row, i + 2]) * np.float64(raw[row, i + 2])
            s3 += np.float64(raw[row, i + 3]) * np.float64(raw[row, i + 3])
        for i in range(whole, width):
            s0 += np.float64(raw[row, i]) * np.float64(raw[row, i])
        norm = np.sqrt((s0 + s1) + (s2 + s3))
        bad[row] = 0
        if norm == 0.0:
            bad[row] = 1
        elif not np.isfinite(norm):
            bad[row] = 2
        if bad[row]:
            n_bad += 1
            continue
        for i in range(width):
            unit[row, i] = np.float32(np.float64(raw[row, i]) / norm)
    return n_bad


@compiled
def squared_norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared norms [n] of rows [n, D]; not finite where a component is not."""
    squares = np.empty(rows.shape[0])
    for row in range(rows.shape[0]):
        squares[row] = dot(rows, row, rows, row)
    return squares


@compiled
def grid_of(rows: NDArray[np.float32], least: int, most: int) -> int:
    """The smallest a from `least` on with which all components are multiples of 2^-a; `most` + 1 if a has to be larger."""
    a = least
    for row in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            scaled = np.float64(rows[row, i]) * 2.0**a
            while scaled != np.floor(scaled):
                a += 1
                if a > most:
                    return a
                scaled *= 2.0
    return a


@compiled
def pair_scores(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    query_rows: NDArray[np.int64],
    gallery_rows: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> None:
    """Canonical scores [n] of the pairs (query_rows[i], gallery_rows[i])."""
    for pair in range(query_rows.size):
        scores[pair] = dot(query, query_rows[pair], gallery, gallery_rows[pair])


@compiled
def score_listed(
    first_query: int,
    last_query: int,
    query: NDArray[np.float32],
    block: NDArray[np.float32],
    first_row: int,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    keys: NDArray[np.float64],
) -> None:
    """Write minus the canonical score of the listed pairs that lie in a gallery block [b, D] to keys [P].

    Pairs of query q are rows[offsets[q]:offsets[q + 1]], ascending.
    """
    for q in range(first_query, last_query):
        listed = rows[offsets[q] : offsets[q + 1]]
        at = np.searchsorted(listed, first_row)
        while at < listed.size and listed[at] < first_row + block.shape[0]:
            keys[offsets[q] + at] = -dot(query, q, block, listed[at] - first_row)
            at += 1
