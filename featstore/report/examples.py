"""Queries that the upgrade breaks and queries that it repairs, with their nearest gallery rows before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate import top_k
from featstore.report.thumbnails import Picture, pictures_of
from featstore.report.words import Subject

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from featstore.evaluate import EvalResult
    from featstore.store import Dataset, Store

__all__ = ["Example", "Examples", "Neighbour", "Row", "choose", "find_examples"]

_EACH = 12
_OF_A_CLASS = 2
_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is shown. `picture` is a data URI, None where there is no image."""

    id: str
    label: str
    picture: str | None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A gallery row near a query, its score, and whether it is a right answer."""

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


@dataclass(frozen=True, slots=True)
class Examples:
    """The queries to look at.

    Attributes:
        metric: The recall metric in which they flip; None when no recall was measured, and they only change.
        losses: Broken queries, the largest loss first.
        gains: Repaired queries, the largest gain first.
        broken: Broken queries in all.
        repaired: Repaired queries in all.
    """

    metric: str | None
    losses: list[Example]
    gains: list[Example]
    broken: int
    repaired: int


def find_examples(result: EvalResult, about: Subject, store: Store, images: Path | None) -> Examples:
    """The worst negative flips and the best positive flips from the subject's baseline to the subject.

    Args:
        result: With its evidence.
        about: The comparison that the verdict is about.
        store: The store it was made from.
        images: Folder that the ids are files of, for thumbnails.
    """
    evidence = result.evidence
    problem = evidence.problem
    headline = {role: evidence.per_query[role].values[result.headline] for role in (about.before, about.role)}
    change = headline[about.role] - headline[about.before]
    recall = next((metric for metric in result.cells[0].metrics if metric.startswith("recall@")), None)
    flip = change
    if recall is not None:
        before, after = (evidence.per_query[role].values[recall] for role in (about.before, about.role))
        flip = after - before
    chosen = {sign: choose(change, flip, problem.classes, sign=sign) for sign in (-1, 1)}
    queries = np.concatenate(list(chosen.values()))
    picture = pictures_of(images)
    plan = evidence.plans[about.role]
    query_rows, gallery_rows = (
        _Rows(store.features(evidence.sides.features(side).ref).dataset, picture) for side in (plan.query, plan.gallery)
    )
    nearest = {role: _nearest(result, role, queries) for role in (about.before, about.role)}

    def neighbours(role: str, place: int) -> list[Neighbour]:
        right = problem.relevance.positives(int(queries[place]), int(queries[place]) + 1).rows
        return [
            Neighbour(
                gallery_rows.show(int(problem.gallery_rows[position]))
                if position < len(problem.gallery_rows)
                else Row("a distractor", "", None),
                score,
                bool(np.isin(position, right)),
            )
            for position, score in nearest[role][place]
        ]

    found = [
        Example(
            query=query_rows.show(int(problem.query_rows[query])),
            before=float(headline[about.before][query]),
            after=float(headline[about.role][query]),
            old=neighbours(about.before, place),
            new=neighbours(about.role, place),
        )
        for place, query in enumerate(queries.tolist())
    ]
    losses = len(chosen[-1])
    return Examples(recall, found[:losses], found[losses:], int((flip < 0).sum()), int((flip > 0).sum()))


def choose(
    change: NDArray[np.float64], flip: NDArray[np.float64], classes: NDArray[np.int64], *, sign: int
) -> NDArray[np.int64]:
    """Positions of the queries that flip one way, the largest change that way first, at most 2 of a class.

    Args:
        change: By query [Q]; NaN for queries that do not count.
        flip: Its sign says which way a query flips, [Q].
        classes: Class of each query, [Q].
        sign: 1 for gains, −1 for losses.

    Returns:
        At most 12 positions; of equal changes the first query comes first.
    """
    order = np.argsort(-sign * change, kind="stable")
    order = order[sign * flip[order] > 0]
    taken: dict[int, int] = {}
    kept = []
    for query in order.tolist():
        label = int(classes[query])
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= _OF_A_CLASS:
            kept.append(query)
        if len(kept) == _EACH:
            break
    return np.array(kept, np.int64)


def _nearest(result: EvalResult, role: str, queries: NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    """The nearest gallery positions of each query with their scores, without those its ranking leaves out."""
    if not len(queries):
        return []
    evidence = result.evidence
    query, gallery, relevance = evidence.measure.sides_of(evidence.plans[role])
    excluded = [set(relevance.excluded(position, position + 1).rows.tolist()) for position in queries.tolist()]
    found = top_k(
        np.concatenate([query.read(position, position + 1) for position in queries.tolist()]),
        gallery,
        _NEIGHBOURS + max(len(rows) for rows in excluded),
        kind=evidence.measure.kind,
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
