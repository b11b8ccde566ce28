"""Counting in several processes: each takes a part of the gallery, and the counts add."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING

from featstore.evaluate.counts import RankCounts
from featstore.evaluate.ranks import Ranker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featstore.evaluate.blocking import Blocking
    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors
    from featstore.progress import Progress

__all__ = ["counted_in_processes", "divided"]

_ranker: Ranker | None = None


def divided(
    query: Vectors, gallery: Vectors, relevance: Relevance, *, kind: ScoreKind, blocking: Blocking
) -> tuple[Blocking, list[tuple[int, int]], list[tuple[int, int]]]:
    """How several workers share a count: the blocking of one alone, blocks of queries, and its part of the gallery for each."""
    alone = replace(blocking, workers=1, engine="local")
    blocks = Ranker(query, gallery, relevance, kind=kind, blocking=replace(alone, keep_bytes=0)).query_blocks()
    cuts = [gallery.rows * part // blocking.workers for part in range(blocking.workers + 1)]
    return alone, blocks, list(pairwise(cuts))


def counted_in_processes(
    query: Vectors,
    gallery: Vectors,
    relevance: Relevance,
    *,
    kind: ScoreKind,
    blocking: Blocking,
    progress: Progress,
    task: str,
) -> Iterator[tuple[int, RankCounts]]:
    """As `ranked_blocks`, in `blocking.workers` processes of one thread each.

    The inputs are sent to every process: rows of a store by name, arrays by value.
    """
    alone, blocks, parts = divided(query, gallery, relevance, kind=kind, blocking=blocking)
    progress.start(task, len(blocks) * gallery.rows, "rows")
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            blocking.workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(query, gallery, relevance, kind, alone),
        )
        try:
            for block in blocks:
                futures = {pool.submit(_count, block, part): part[1] - part[0] for part in parts}
                for future in as_completed(futures):
                    future.result()
                    progress.advance(futures[future])
                yield block[0], reduce(RankCounts.merge, (future.result() for future in futures))
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(query: Vectors, gallery: Vectors, relevance: Relevance, kind: ScoreKind, blocking: Blocking) -> None:
    global _ranker
    _ranker = Ranker(query, gallery, relevance, kind=kind, blocking=blocking)


def _count(queries: tuple[int, int], part: tuple[int, int]) -> RankCounts:
    assert _ranker is not None  # noqa: S101 - set when the process began
    return _ranker.count(queries, part)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started meanwhile compute in one thread: BLAS reads this when it is loaded."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
