"""Agreement with the newest model, for rows without labels: what it finds on its own gallery counts as right.

It says how much of that model's ranking another way of searching keeps, and nothing about whether the ranking is right. A
stand-in, so no verdict rests on it: a new model that is worse than the old one agrees with itself all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import UsageError
from featstore.evaluate.neighbours import top_k
from featstore.evaluate.protocols.problem import Problem
from featstore.evaluate.protocols.rows import joined, self_positions, side_sets, valid_rows
from featstore.evaluate.relevance import ByList, listed
from featstore.evaluate.vectors import SetVectors

if TYPE_CHECKING:
    from featstore.evaluate.protocols.problem import Selection

__all__ = ["NEAREST", "agreement_problem"]

NEAREST = 10


def agreement_problem(selection: Selection) -> Problem:
    """Right answers of a query are the gallery rows that the newest model ranks first for it, the query itself left out.

    Queries are resampled by class where they have one, else each by itself.

    Raises:
        UsageError: Fewer than two models, no row, or so small a gallery that every row is among the first.
        AlignmentError: The sets of one side belong to different datasets.
    """
    judge = selection.newest
    if judge is None:
        raise UsageError(
            "agreement is with the newest of several models, and one set or pair was named", hint="give --old and --new"
        )
    query_sets, gallery_sets = side_sets(selection)
    query, gallery = query_sets[0].dataset, gallery_sets[0].dataset
    query_rows, query_counts = valid_rows(query_sets, (*selection.where, *selection.query_where))
    gallery_rows, gallery_counts = valid_rows(gallery_sets, (*selection.where, *selection.gallery_where))
    if len(gallery_rows) <= NEAREST + 1:
        raise UsageError(
            f"the gallery has {len(gallery_rows)} rows: whatever searches it finds most of the first {NEAREST}",
            hint="choose more rows with --where or --gallery-where",
        )
    own = self_positions(query, query_rows, gallery, gallery_rows)
    nearest = top_k(
        SetVectors(judge, query_rows), SetVectors(judge, gallery_rows), NEAREST, own, kind=selection.score
    ).rows
    number = np.arange(len(query_rows))
    classes, _, names = joined(query.labels, query_rows, gallery.labels, gallery_rows)
    alone = classes < 0
    return Problem(
        kind="agreement",
        headline=f"ir-recall@{NEAREST}",
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        relevance=ByList(
            listed(np.repeat(number, NEAREST), np.sort(nearest, axis=1).astype(np.int32).ravel(), len(number)),
            listed(number[own >= 0], own[own >= 0].astype(np.int32), len(number)),
            len(gallery_rows),
        ),
        self_rows=own,
        classes=np.where(alone, len(names) + np.cumsum(alone) - 1, classes),
        class_names=(*names, *query.ids.take(query_rows[alone])),
        query_counts=query_counts,
        gallery_counts=gallery_counts,
        metrics=(f"ir-recall@{NEAREST}", "recall@1", "map"),
        is_proxy=True,
        notes=(
            f"right is what {judge.ref} itself ranks among its first {NEAREST}, so there is no verdict on what is right",
        ),
    )
