"""A handful of queries with their nearest gallery rows, before and after: the ones that gain and lose most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate import SetVectors, top_k
from featstore.report.thumbnails import Picture, pictures_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from featstore.evaluate import EvalResult
    from featstore.evaluate.protocols import Problem
    from featstore.store import Dataset, Store

__all__ = ["Example", "Neighbour", "Row", "choose", "find_examples"]

_EACH = 4
_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is shown. `picture` is a data URI, None where there is no image."""

    id: str
    label: str
    picture: str | None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A gallery row near a query, its cosine, and whether it is a right answer."""

    row: Row
    score: float
    hit: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A query, its headline value in both cells, and its nearest gallery rows in both."""

    query: Row
    before: float
    after: float
    old: list[Neighbour]
    new: list[Neighbour]


def find_examples(result: EvalResult, store: Store, images: Path | None) -> tuple[list[Example], list[Example]]:
    """Queries with the largest gains and the largest losses from old/old to new/old.

    Args:
        result: With its evidence, and with the cells old/old and new/old.
        store: The store it was made from.
        images: Folder that the ids are files of, for thumbnails.

    Returns:
        Gains and losses, the largest first.
    """
    evidence = result.evidence
    problem = evidence.problem
    before, after = (evidence.per_query[role].values[result.headline] for role in ("old/old", "new/old"))
    gains, losses = choose(after - before, problem.classes)
    queries = np.concatenate([gains, losses])
    cross = result.cell("new/old")
    picture = pictures_of(images)
    query_rows = _Rows(store.features(cross.query).dataset, picture)
    gallery_rows = _Rows(store.features(cross.gallery).dataset, picture)
    nearest = {role: _nearest(result, store, role, queries) for role in ("old/old", "new/old")}

    def neighbours(role: str, place: int) -> list[Neighbour]:
        right = problem.relevance.positives(int(queries[place]), int(queries[place]) + 1).rows
        return [
            Neighbour(
                gallery_rows.show(int(problem.gallery_rows[position])),
                score,
                bool(np.isin(position, right)),
            )
            for position, score in nearest[role][place]
        ]

    found = [
        Example(
            query=query_rows.show(int(problem.query_rows[query])),
            before=float(before[query]),
            after=float(after[query]),
            old=neighbours("old/old", place),
            new=neighbours("new/old", place),
        )
        for place, query in enumerate(queries.tolist())
    ]
    return found[: len(gains)], found[len(gains) :]


def choose(change: NDArray[np.float64], classes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the largest gains and of the largest losses, at most one of a class on each side.

    Args:
        change: By query [Q]; NaN for queries that do not count.
        classes: Class of each query, [Q].

    Returns:
        Two arrays of at most 4 positions; of equal changes the first query comes first.
    """

    def first(order: NDArray[np.int64]) -> NDArray[np.int64]:
        _, places = np.unique(classes[order], return_index=True)
        return order[np.sort(places)][:_EACH]

    order = np.argsort(-change, kind="stable")
    gains = first(order[change[order] > 0])
    order = np.argsort(change, kind="stable")
    return gains, first(order[change[order] < 0])


def _nearest(result: EvalResult, store: Store, role: str, queries: NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    """The nearest gallery positions of each query with their cosines, without those its ranking leaves out."""
    if not len(queries):
        return []
    problem: Problem = result.evidence.problem
    cell = result.cell(role)
    excluded = [set(problem.relevance.excluded(query, query + 1).rows.tolist()) for query in queries.tolist()]
    found = top_k(
        store.features(cell.query).gather(problem.query_rows[queries]),
        SetVectors(store.features(cell.gallery), problem.gallery_rows),
        _NEIGHBOURS + max(len(rows) for rows in excluded),
    )
    return [
        [
            (position, score)
            for position, score in zip(rows.tolist(), scores.tolist(), strict=True)
            if position >= 0 and position not in left_out
        ][:_NEIGHBOURS]
        for rows, scores, left_out in zip(found.rows, found.scores, excluded, strict=True)
    ]


class _Rows:
    """The rows of a dataset as they are shown."""

    def __init__(self, dataset: Dataset, picture: Picture) -> None:
        self._ids = dataset.ids
        self._labels = dataset.labels
        self._picture = picture

    def show(self, row: int) -> Row:
        id_, code = self._ids[row], int(self._labels.codes[row])
        return Row(id_, self._labels.names[code] if code >= 0 else "", self._picture(id_))
