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

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import AlignmentError, FeatstoreError
from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking, thread_count
from featstore.evaluate.counts import RankCounts
from featstore.evaluate.scores import FINEST_GRID, is_exact, score_error_bound
from featstore.evaluate.vectors import PreparedRows, require_one_width
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Listed, Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors

__all__ = ["RankCounter", "Ranker", "ranked_blocks"]

_MOST_GALLERY_ROWS = 2**31 - 1


class RankCounter:
    """Counts for one block of queries.

    Call `score` with every gallery block, then `count` with every block, then `result`. To divide a gallery over
    workers, each scores all positives, counts its own part, and the results merge.

    Args:
        query: Prepared rows [Q, D] float32, C order (see `scores.py`).
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
        self._gallery_norm = 0.0
        self._gallery_grid = 0
        self._bounds = np.zeros(0)
        self._keys = np.full(len(self._rows), np.nan)
        self._steps = np.zeros((3, len(self._rows)), np.int32)
        self._cells: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]] | None = None
        self._tile = np.empty(0, np.float32)

    def score(self, first_row: int, block: NDArray[np.float32]) -> None:
        """Score the positives that lie in a gallery block of prepared rows [b, D] beginning at `first_row`."""
        from featstore.evaluate import _score_kernels as kernels

        self._gallery_norm = max(self._gallery_norm, float(np.sqrt(kernels.squared_norms(block).max(initial=0.0))))
        self._gallery_grid = kernels.grid_of(block, self._gallery_grid, FINEST_GRID)
        self._divide(
            len(self._query),
            lambda begin, end: kernels.score_listed(
                begin, end, self._query, block, first_row, self._offsets, self._rows, self._keys
            ),
        )

    def count(self, first_row: int, block: NDArray[np.float32]) -> None:
        """Count the scores of a gallery block of prepared rows [b, D] beginning at `first_row`; each block once."""
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
                        tile, start, begin, end, self._query, block, first_row, self._bounds,
                        self._offsets, self._rows, self._keys, *self._excluded, top, scale, cells, self._steps,
                    )
                )  # fmt: skip

            self._divide(len(part), count_part)
        if max(worst) > 0:
            raise FeatstoreError(
                f"this machine's float32 matrix product is off by {max(worst):.1e} more than float32 arithmetic allows, "
                "so ranks would not be exact",
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
        from featstore.evaluate._score_kernels import grid_of, squared_norms

        if np.isnan(self._keys).any():
            raise AlignmentError(f"{int(np.isnan(self._keys).sum())} positives lie outside the gallery that was scored")
        kernels.order_positives(self._offsets, self._rows, self._keys)
        n_queries = len(self._query)
        top, scale = np.zeros(n_queries, np.float32), np.zeros(n_queries, np.float32)
        cells = np.empty((n_queries, cell_count(int(np.diff(self._offsets).max(initial=0)))), np.int32)
        limits = np.sqrt(squared_norms(self._query)) * self._gallery_norm
        self._bounds = score_error_bound(self._query.shape[1], limits)
        if is_exact(float(limits.max(initial=0.0)), grid_of(self._query, 0, FINEST_GRID), self._gallery_grid):
            self._bounds[:] = 0.0
        kernels.place_cells(self._offsets, self._keys, limits, self._bounds, top, scale, cells)
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


class Ranker:
    """Ranks blocks of queries against one gallery, or counts over a part of it.

    Args:
        query: [Q, D].
        gallery: [G, D].
        relevance: Which gallery rows answer which query.
        kind: What ranks.
        blocking: How to cut the work.

    Raises:
        AlignmentError: The widths differ, or `relevance` speaks of other numbers of rows.
        NonFiniteError: A row cannot be scored.
    """

    def __init__(
        self,
        query: Vectors,
        gallery: Vectors,
        relevance: Relevance,
        *,
        kind: ScoreKind = "cosine",
        blocking: Blocking = DEFAULT_BLOCKING,
    ) -> None:
        require_one_width(query, gallery)
        if (query.rows, gallery.rows) != (relevance.n_queries, relevance.n_gallery):
            raise AlignmentError(
                f"labels for {relevance.n_queries} queries and {relevance.n_gallery} gallery rows, "
                f"features for {query.rows} and {gallery.rows}"
            )
        if gallery.rows > _MOST_GALLERY_ROWS:
            raise AlignmentError(f"a gallery of {gallery.rows} rows; at most 2^31 - 1 can be ranked at once")
        self._query = PreparedRows(query, 0, kind=kind, side="query")
        self._gallery = PreparedRows(gallery, blocking.keep_bytes, kind=kind)
        self._relevance = relevance
        self._blocking = blocking

    def query_blocks(self) -> list[tuple[int, int]]:
        """Blocks of queries whose counters fit into memory."""
        return list(_query_blocks(self._relevance.n_positives(), self._query.width, self._blocking.state_bytes))

    def count(
        self,
        queries: tuple[int, int],
        part: tuple[int, int],
        *,
        pool: ThreadPoolExecutor | None = None,
        counted: Callable[[int], None] = lambda _rows: None,
    ) -> RankCounts:
        """Count the gallery rows of `part` around the positives of a block of queries; told of rows as they are done."""
        relevance, rows = self._relevance, self._blocking.gallery_rows
        counter = RankCounter(
            self._query.block(*queries),
            relevance.positives(*queries),
            relevance.excluded(*queries),
            tile_queries=self._blocking.tile_queries,
            pool=pool,
        )
        for first_row, block in self._gallery.blocks(rows):
            counter.score(first_row, block)
        for first_row, block in self._gallery.blocks(rows, *part):
            counter.count(first_row, block)
            counted(len(block))
        return counter.result()


def ranked_blocks(
    query: Vectors,
    gallery: Vectors,
    relevance: Relevance,
    *,
    kind: ScoreKind = "cosine",
    blocking: Blocking = DEFAULT_BLOCKING,
    progress: Progress = SILENT,
    task: str = "counting ranks",
) -> Iterator[tuple[int, RankCounts]]:
    """Rank the positives of all queries, a block of queries at a time.

    Args:
        query: [Q, D].
        gallery: [G, D].
        relevance: Which gallery rows answer which query.
        kind: What ranks.
        blocking: How to cut the work; with several workers, each counts a part of the gallery.
        progress: Told of gallery rows.
        task: What the progress is called.

    Yields:
        (first query of the block, its counts).

    Raises:
        AlignmentError: The widths differ, or `relevance` speaks of other numbers of rows.
        NonFiniteError: A row cannot be scored.
    """
    if (blocking.workers > 1 or blocking.engine == "ray") and gallery.rows > blocking.workers:
        from featstore.evaluate.ray_workers import counted_on_ray
        from featstore.evaluate.workers import counted_in_processes

        counted = counted_on_ray if blocking.engine == "ray" else counted_in_processes
        yield from counted(query, gallery, relevance, kind=kind, blocking=blocking, progress=progress, task=task)
        return
    ranker = Ranker(query, gallery, relevance, kind=kind, blocking=blocking)
    blocks = ranker.query_blocks()
    progress.start(task, len(blocks) * gallery.rows, "rows")
    threads = thread_count()
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    try:
        for start, stop in blocks:
            yield start, ranker.count((start, stop), (0, gallery.rows), pool=pool, counted=progress.advance)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def cell_count(most_positives: int) -> int:
    """Cells per query: a power of two with 16 cells or more for each positive, at most what a close cache holds (32 KiB)."""
    return min(max(1 << (16 * most_positives).bit_length(), 1024), 8192)


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
