"""Exact ranks by counting: the gallery is never sorted and never held in memory.

1. Every positive's canonical score (`scores.py`) is computed; each query's positives are put in order.
2. Gallery blocks stream through a float32 GEMM. A query's scores are counted in cells spread over the range of its
   positives. A cell that no positive lies in, within the GEMM's error bound, needs no more: all of it is above or below
   each positive. Scores in the other cells are compared with the positives one by one, and canonically where they lie
   within the bound.
3. Running sums turn cells and steps into three counts per positive among the *non-positives*: strictly greater, tied,
   and tied with a lower gallery row. The order is score descending, then gallery row ascending.

Counts depend on the rows' values alone, not on block sizes, and counts over disjoint parts of a gallery add.
Q queries, G gallery rows, D width, P positives of all queries together.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import AlignmentError, FeatstoreError
from featstore.evaluate.counts import RankCounts
from featstore.evaluate.scores import score_error_bound
from featstore.evaluate.vectors import UnitRows
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Listed, Relevance
    from featstore.evaluate.vectors import Vectors

__all__ = ["DEFAULT_BLOCKING", "Blocking", "RankCounter", "ranked_blocks"]

_MOST_GALLERY_ROWS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Blocking:
    """How the work is cut. No result depends on it.

    Attributes:
        gallery_rows: Gallery rows of a block; the scores of one query (32 KiB) should stay in a close cache.
        tile_queries: Queries of one GEMM.
        state_bytes: Memory for the counters of a block of queries; the gallery is read twice per block.
        keep_bytes: A gallery that takes no more than this as float32 is normalised once and kept.
    """

    gallery_rows: int = 8192
    tile_queries: int = 256
    state_bytes: int = 512 * 2**20
    keep_bytes: int = 512 * 2**20


DEFAULT_BLOCKING = Blocking()


class RankCounter:
    """Counts for one block of queries.

    Call `score` with every gallery block that holds positives, then `count` with every block, then `result`. To divide
    a gallery over workers, each scores all positives, counts its own part, and the results merge.

    Args:
        query: Unit rows [Q, D] float32, C order.
        positives: Gallery rows that answer each query.
        excluded: Gallery rows that do not take part; disjoint from the positives.
        tile_queries: Queries of one GEMM.
        pool: Threads to count in; None counts in the calling one.
    """

    def __init__(
        self,
        query: NDArray[np.float32],
        positives: Listed,
        excluded: Listed,
        *,
        tile_queries: int = 256,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self._query = query
        self._offsets = positives.offsets
        self._rows = positives.rows.copy()
        self._excluded = excluded
        self._tile_queries = tile_queries
        self._pool = pool
        self._bound = score_error_bound(query.shape[1])
        self._keys = np.full(len(self._rows), np.nan)
        self._steps = np.zeros((3, len(self._rows)), np.int32)
        self._cells: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]] | None = None
        self._tile = np.empty(0, np.float32)

    def score(self, first_row: int, block: NDArray[np.float32]) -> None:
        """Score the positives that lie in a gallery block of unit rows [b, D] beginning at `first_row`."""
        from featstore.evaluate import _score_kernels as kernels

        self._divide(
            len(self._query),
            lambda begin, end: kernels.score_listed(
                begin, end, self._query, block, first_row, self._offsets, self._rows, self._keys
            ),
        )

    def count(self, first_row: int, block: NDArray[np.float32]) -> None:
        """Count the scores of a gallery block of unit rows [b, D] beginning at `first_row`; each block once."""
        from featstore.evaluate import _rank_kernels as kernels

        top, scale, cells = self._cells or self._place()
        size = min(self._tile_queries, len(self._query)) * len(block)
        if len(self._tile) < size:
            self._tile = np.empty(size, np.float32)
        worst = [0.0]
        for start in range(0, len(self._query), self._tile_queries):
            part = self._query[start : start + self._tile_queries]
            tile = self._tile[: len(part) * len(block)].reshape(len(part), len(block))
            np.matmul(part, block.T, out=tile)

            def count_part(begin: int, end: int, tile: NDArray[np.float32] = tile, start: int = start) -> None:
                worst.append(
                    kernels.count_tile(
                        tile, start, begin, end, self._query, block, first_row, self._bound,
                        self._offsets, self._rows, self._keys, *self._excluded, top, scale, cells, self._steps,
                    )
                )  # fmt: skip

            self._divide(len(part), count_part)
        if max(worst) > self._bound:
            raise FeatstoreError(
                f"this machine's float32 matrix product is off by {max(worst):.1e} where {self._bound:.1e} is the most "
                "that float32 arithmetic allows, so ranks would not be exact",
                hint="see which BLAS numpy uses (python -c 'import numpy; numpy.show_config()'); "
                "its reduced-precision modes must be off",
            )

    def result(self) -> RankCounts:
        """The counts; the counter must not be used afterwards."""
        from featstore.evaluate import _rank_kernels as kernels

        top, scale, cells = self._cells or self._place()
        kernels.finish(self._offsets, self._keys, top, scale, cells, self._steps)
        greater, equal, before = self._steps[[kernels.GREATER, kernels.EQUAL, kernels.BEFORE]]
        return RankCounts(self._offsets, self._rows, -self._keys, greater, equal, before)

    def _place(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        from featstore.evaluate import _rank_kernels as kernels

        if np.isnan(self._keys).any():
            raise AlignmentError(f"{int(np.isnan(self._keys).sum())} positives lie outside the gallery that was scored")
        kernels.order_positives(self._offsets, self._rows, self._keys)
        n_queries = len(self._query)
        top, scale = np.zeros(n_queries, np.float32), np.zeros(n_queries, np.float32)
        cells = np.empty((n_queries, cell_count(int(np.diff(self._offsets).max(initial=0)))), np.int32)
        kernels.place_cells(self._offsets, self._keys, self._bound, top, scale, cells)
        self._cells = top, scale, cells
        return self._cells

    def _divide(self, n: int, work: Callable[[int, int], None]) -> None:
        if self._pool is None:
            work(0, n)
            return
        parts = 4 * thread_count()
        cuts = [n * part // parts for part in range(parts + 1)]
        for done in [self._pool.submit(work, begin, end) for begin, end in pairwise(cuts) if begin < end]:
            done.result()


def ranked_blocks(
    query: Vectors,
    gallery: Vectors,
    relevance: Relevance,
    *,
    blocking: Blocking = DEFAULT_BLOCKING,
    progress: Progress = SILENT,
    task: str = "counting ranks",
) -> Iterator[tuple[int, RankCounts]]:
    """Rank the positives of all queries, a block of queries at a time.

    Args:
        query: [Q, D].
        gallery: [G, D].
        relevance: Which gallery rows answer which query.
        blocking: How to cut the work.
        progress: Told of every gallery block.
        task: What the progress is called.

    Yields:
        (first query of the block, its counts).

    Raises:
        AlignmentError: The widths differ, or `relevance` speaks of other numbers of rows.
        NonFiniteError: A row has no direction.
    """
    if query.width != gallery.width:
        raise AlignmentError(f"queries have width {query.width}, gallery rows {gallery.width}")
    if (query.rows, gallery.rows) != (relevance.n_queries, relevance.n_gallery):
        raise AlignmentError(
            f"labels for {relevance.n_queries} queries and {relevance.n_gallery} gallery rows, "
            f"features for {query.rows} and {gallery.rows}"
        )
    if gallery.rows > _MOST_GALLERY_ROWS:
        raise AlignmentError(f"a gallery of {gallery.rows} rows; at most 2^31 - 1 can be ranked at once")
    unit_query = UnitRows(query, 0)
    unit_gallery = UnitRows(gallery, blocking.keep_bytes)
    blocks = list(_query_blocks(relevance.n_positives(), query.width, blocking.state_bytes))
    progress.start(task, len(blocks) * gallery.rows, "rows")
    threads = thread_count()
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    try:
        for start, stop in blocks:
            counter = RankCounter(
                unit_query.block(start, stop),
                relevance.positives(start, stop),
                relevance.excluded(start, stop),
                tile_queries=blocking.tile_queries,
                pool=pool,
            )
            for first_row, block in unit_gallery.blocks(blocking.gallery_rows):
                counter.score(first_row, block)
            for first_row, block in unit_gallery.blocks(blocking.gallery_rows):
                counter.count(first_row, block)
                progress.advance(len(block))
            yield start, counter.result()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def cell_count(most_positives: int) -> int:
    """Cells per query: a power of two with at least 16 cells for each positive, at most 128 KiB."""
    return min(max(1 << (16 * most_positives).bit_length(), 1024), 32768)


def thread_count() -> int:
    """Threads for counting: what OMP_NUM_THREADS says, as for the GEMM, or all processors this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if wanted.isdecimal():
        return max(int(wanted), 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _query_blocks(n_positives: NDArray[np.int64], width: int, state_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut the queries so that a block's rows, cells and positives (some 64 bytes each at the peak) fit."""
    start = 0
    while start < len(n_positives):
        rest = n_positives[start:]
        cells = 4 * cell_count(int(rest.max()))
        size = np.searchsorted(np.cumsum(64 * rest + 8 * width + cells), state_bytes, side="right")
        stop = start + max(int(size), 1)
        yield start, stop
        start = stop
