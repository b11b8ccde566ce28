"""In-shop clothes retrieval (DeepFashion): the query partition against the gallery partition, Recall@{1, 10, 20, 30}."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from featstore.errors import UsageError
from featstore.evaluate.protocols.retrieval import retrieval_problem

if TYPE_CHECKING:
    from featstore.evaluate.protocols.problem import Problem, Selection

__all__ = ["inshop_problem"]

_COLUMNS = ("evaluation_status", "partition", "split")


def inshop_problem(selection: Selection) -> Problem:
    """Queries are the rows whose column `evaluation_status`, `partition` or `split` says `query`, the gallery `gallery`.

    Raises:
        UsageError: No such column; and as `retrieval_problem`.
    """
    query, gallery = (sets[0].dataset for sets in (selection.query_sets, selection.gallery_sets))

    def partition(names: list[str], part: str) -> str:
        for column in _COLUMNS:
            if column in names:
                return f"{column}={part}"
        raise UsageError(
            f"the protocol inshop reads which rows are queries from a column ({', '.join(_COLUMNS)}), and there is none",
            hint="`featstore dataset add-columns` adds one with the values query and gallery",
        )

    chosen = replace(
        selection,
        query_where=(*selection.query_where, partition(query.column_names, "query")),
        gallery_where=(*selection.gallery_where, partition(gallery.column_names, "gallery")),
    )
    return replace(
        retrieval_problem(chosen),
        kind="inshop",
        headline="recall@1",
        metrics=("recall@1", "recall@10", "recall@20", "recall@30", "map"),
    )
