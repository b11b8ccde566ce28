"""Counting in Ray actors: each takes parts of the gallery, and the counts add."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featstore.evaluate.ranks import Ranker
from featstore.evaluate.workers import divided
from featstore.ray_pool import ray_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from featstore.evaluate.blocking import Blocking
    from featstore.evaluate.counts import RankCounts
    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.vectors import Vectors
    from featstore.progress import Progress
    from featstore.ray_pool import Tell

__all__ = ["counted_on_ray"]


@dataclass(frozen=True)
class _Counting:
    query: Vectors
    gallery: Vectors
    relevance: Relevance
    kind: ScoreKind
    blocking: Blocking


def counted_on_ray(
    query: Vectors,
    gallery: Vectors,
    relevance: Relevance,
    *,
    kind: ScoreKind,
    blocking: Blocking,
    progress: Progress,
    task: str,
) -> Iterator[tuple[int, RankCounts]]:
    """As `ranked_blocks`, in `blocking.workers` Ray actors; a part whose actor is lost is counted by another one."""
    alone, blocks, cut = divided(query, gallery, relevance, kind=kind, blocking=blocking)
    tasks = [(block, part) for block in blocks for part in cut]
    progress.start(task, len(blocks) * gallery.rows, "rows")
    merged: dict[tuple[int, int], tuple[int, RankCounts]] = {}  # by block: parts counted, their sum
    left = list(blocks)
    work = _Counting(query, gallery, relevance, kind, alone)
    with closing(ray_map(_prepare, work, tasks, workers=blocking.workers)) as results:
        for number, counts in results:
            block, (start, stop) = tasks[number]
            progress.advance(stop - start)
            parts, so_far = merged.get(block, (0, None))
            merged[block] = parts + 1, counts if so_far is None else so_far.merge(counts)
            while left and merged.get(left[0], (0, None))[0] == blocking.workers:
                yield left[0][0], merged.pop(left.pop(0))[1]


def _prepare(work: _Counting) -> Callable[[tuple[tuple[int, int], tuple[int, int]], Tell], RankCounts]:
    """In the actor."""
    ranker = Ranker(work.query, work.gallery, work.relevance, kind=work.kind, blocking=work.blocking)
    return lambda task, _: ranker.count(*task)
