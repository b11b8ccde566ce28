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

__all__ = ["dots", "grid_of", "look_up", "normalise_rows", "pair_scores", "score_listed", "squared_norms"]


def _typed_dots(
    _context: Any, x: types.Array, _p: types.UniTuple, y: types.Array, r: types.UniTuple
) -> tuple[Any, Callable[..., Any]]:
    """The float64 dot products of rows x[p[k]] and y[r[k]], k < n, all four arguments as `dot` has them.

    Written as LLVM vectors because the compiler does not find them: a vector register holds the eight running sums of
    a pair, which takes a third of the time of eight scalar ones. Multiplication and addition may contract to a fused
    multiply-add, which gives the same bits since the product is exact.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        arrays = [context.make_array(signature.args[place])(context, builder, args[place]) for place in (0, 2)]
        width = builder.extract_value(arrays[0].shape, 1)
        starts = [
            [builder.gep(array.data, [builder.mul(row, width)]) for row in cgutils.unpack_tuple(builder, rows)]  # type: ignore[no-untyped-call]
            for array, rows in zip(arrays, (args[1], args[3]), strict=True)
        ]
        doubles = ir.VectorType(ir.DoubleType(), 8)
        zeros = ir.Constant(doubles, [0.0] * 8)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in starts[0]]  # type: ignore[no-untyped-call]

        def wide(row: ir.Value, index: ir.Value, lanes: int) -> ir.Value:
            kind = ir.VectorType(ir.FloatType(), lanes)
            value = builder.load(builder.bitcast(builder.gep(row, [index]), kind.as_pointer()))
            value.align = 4
            return builder.fpext(value, ir.VectorType(ir.DoubleType(), lanes))

        def add(total: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
            return builder.fadd(total, builder.fmul(left, right, flags=("contract",)), flags=("contract",))

        number = width.type
        whole = builder.and_(width, ir.Constant(number, -8))
        for start, stop, lanes in ((ir.Constant(number, 0), whole, 8), (whole, width, 1)):
            with cgutils.for_range_slice(builder, start, stop, ir.Constant(number, lanes), intp=number) as (index, _):
                for left, right, total in zip(*starts, sums, strict=True):
                    pair = wide(left, index, lanes), wide(right, index, lanes)
                    if lanes == 8:
                        builder.store(add(builder.load(total), *pair), total)
                        continue
                    before, lane = builder.load(total), ir.Constant(ir.IntType(32), 0)
                    first = add(
                        builder.extract_element(before, lane), *(builder.extract_element(v, lane) for v in pair)
                    )
                    builder.store(builder.insert_element(before, first, lane), total)
        return context.make_tuple(builder, signature.return_type, [_pairwise(builder, total) for total in sums])

    count: Any = types.UniTuple(types.intp, r.count)  # type: ignore[no-untyped-call]
    results: Any = types.UniTuple(types.float64, r.count)  # type: ignore[no-untyped-call]
    return results(x, count, y, count), codegen


def _pairwise(builder: ir.IRBuilder, total: ir.Value) -> ir.Value:
    """The sum of eight running sums: neighbours first."""
    vector = builder.load(total)
    lanes = [builder.extract_element(vector, ir.Constant(ir.IntType(32), lane)) for lane in range(8)]
    while len(lanes) > 1:
        lanes = [builder.fadd(left, right) for left, right in zip(lanes[::2], lanes[1::2], strict=True)]
    return lanes[0]


_dots: Callable[..., tuple[float, ...]] = intrinsic(_typed_dots)


@compiled
def dot(x: NDArray[np.float32], p: int, y: NDArray[np.float32], r: int) -> float:
    """The float64 dot product of rows x[p] and y[r], both [.., D] in C order, added in one fixed order.

    Component i is added to running sum i mod 8, those after the last full eight to the first sum; then the sums are
    added pairwise. The product of two float32 values is exact in float64, so a fused multiply-add gives the same bits
    on every processor. Rows are given by number, because a view of a row would be counted atomically.
    """
    return _dots(x, (p,), y, (r,))[0]


@compiled
def dots(
    query: NDArray[np.float32],
    q: int,
    block: NDArray[np.float32],
    first_row: int,
    rows: NDArray[np.int32],
    scores: NDArray[np.float64],
) -> None:
    """`dot` of a query and some rows [n] of a block that begins at `first_row`, to scores [n].

    Four at a time: their additions do not wait for each other, and their rows come from memory together.
    """
    last = rows.size - 1
    for i in range(0, rows.size, 4):
        i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        r = rows[i] - first_row, rows[i1] - first_row, rows[i2] - first_row, rows[i3] - first_row
        scores[i], scores[i1], scores[i2], scores[i3] = _dots(query, (q, q, q, q), block, r)


@compiled
def look_up(codes: NDArray[np.uint16], table: NDArray[np.float32], values: NDArray[np.float32]) -> None:
    """Write table[codes] to values, both [n, D]."""
    for row in range(codes.shape[0]):
        for i in range(codes.shape[1]):
            values[row, i] = table[codes[row, i]]


@compiled
def normalise_rows(raw: NDArray[np.floating], unit: NDArray[np.float32], bad: NDArray[np.uint8]) -> int:
    """Divide the rows of raw [n, D], float32 or float64, by their float64 norms.

    The result goes to unit [n, D], which may be raw itself; rows without direction are not written. bad [n]
    becomes 1 for a row of zero norm and 2 for one whose norm is not finite. Returns how many there are.
    """
    n_bad = 0
    width = raw.shape[1]
    whole = width - width % 4
    wide = np.empty(width)
    for row in range(raw.shape[0]):
        # From a copy that overlaps nothing, the divisions become vectors.
        for i in range(width):
            wide[i] = raw[row, i]
        s0 = s1 = s2 = s3 = 0.0
        for i in range(0, whole, 4):
            s0 += wide[i] * wide[i]
            s1 += wide[i + 1] * wide[i + 1]
            s2 += wide[i + 2] * wide[i + 2]
            s3 += wide[i + 3] * wide[i + 3]
        for i in range(whole, width):
            s0 += wide[i] * wide[i]
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
            unit[row, i] = np.float32(wide[i] / norm)
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
    if a > most:
        return a
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
    last = query_rows.size - 1
    for i in range(0, query_rows.size, 4):
        i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        p = query_rows[i], query_rows[i1], query_rows[i2], query_rows[i3]
        r = gallery_rows[i], gallery_rows[i1], gallery_rows[i2], gallery_rows[i3]
        scores[i], scores[i1], scores[i2], scores[i3] = _dots(query, p, gallery, r)


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
        begin, end = np.searchsorted(listed, first_row), np.searchsorted(listed, first_row + block.shape[0])
        scores = keys[offsets[q] + begin : offsets[q] + end]
        dots(query, q, block, first_row, listed[begin:end], scores)
        for i in range(scores.size):
            scores[i] = -scores[i]
