"""Retrieval by class: a gallery row is right when its class has the query's name; the query itself never counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import UsageError
from featstore.evaluate.protocols.problem import Problem, Selection
from featstore.evaluate.protocols.rows import joined, labelled_rows, self_positions, side_sets
from featstore.evaluate.relevance import ByLabel

if TYPE_CHECKING:
    from featstore.store import Dataset

__all__ = ["require_answers", "retrieval_problem"]


def retrieval_problem(selection: Selection) -> Problem:
    """Choose the rows, the same for every set on a side, and say which answer which.

    Within one dataset a row takes part when every set involved has a feature for it, so that all cells see the same
    rows; without `query_where` and `gallery_where` each row then queries all others. Sets of two datasets join by class
    name, and a query is found in the gallery by its id.

    Raises:
        AlignmentError: The sets of one side belong to different datasets.
        UnknownNameError: A filter names a column that is not there.
        UsageError: No row, no labelled row, or no query with a right answer is left.
    """
    query_sets, gallery_sets = side_sets(selection)
    query, gallery = query_sets[0].dataset, gallery_sets[0].dataset
    query_rows, query_counts = labelled_rows(query_sets, (*selection.where, *selection.query_where))
    gallery_rows, gallery_counts = labelled_rows(gallery_sets, (*selection.where, *selection.gallery_where))
    query_labels, gallery_labels, names = joined(query.labels, query_rows, gallery.labels, gallery_rows)
    self_rows = self_positions(query, query_rows, gallery, gallery_rows)
    alone = query.name == gallery.name and not selection.query_where and not selection.gallery_where
    problem = Problem(
        kind="leave-one-out" if alone else "query/gallery",
        headline="map",
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        relevance=ByLabel(query_labels, gallery_labels, self_rows),
        self_rows=self_rows,
        classes=query_labels,
        class_names=names,
        query_counts=query_counts,
        gallery_counts=gallery_counts,
    )
    return require_answers(problem, gallery)


def require_answers(problem: Problem, gallery: Dataset) -> Problem:
    """The problem, if at least one query has a right answer.

    Raises:
        UsageError: None has.
    """
    if not problem.relevance.n_positives().any():
        raise UsageError(
            f"none of the {len(problem.query_rows)} queries has another row of its class in the gallery, "
            "so nothing can be measured",
            hint="choose the rows with --where, --query-where and --gallery-where; "
            f"`featstore show {gallery.name}` lists columns and classes",
        )
    return problem
