"""Retrieval by class: a gallery row is right when its class has the query's name; the query itself never counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import UsageError
from featstore.evaluate.protocols.problem import Problem, SideCounts
from featstore.evaluate.relevance import ByLabel
from featstore.store import common_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featstore.store import Dataset, FeatureSet

__all__ = ["retrieval_problem"]


def retrieval_problem(
    query_sets: Sequence[FeatureSet],
    gallery_sets: Sequence[FeatureSet],
    *,
    where: Sequence[str] = (),
    query_where: Sequence[str] = (),
    gallery_where: Sequence[str] = (),
) -> Problem:
    """Choose the rows, the same for every set on a side, and say which answer which.

    Within one dataset a row takes part when every set involved has a feature for it, so that all cells see the same
    rows; without `query_where` and `gallery_where` each row then queries all others. Sets of two datasets join by class
    name, and a query is found in the gallery by its id.

    Args:
        query_sets: The sets that queries come from, all of one dataset.
        gallery_sets: The sets that gallery rows come from, all of one dataset.
        where: Filters for both sides.
        query_where: Further filters for queries.
        gallery_where: Further filters for the gallery.

    Raises:
        AlignmentError: The sets of one side belong to different datasets.
        UnknownNameError: A filter names a column that is not there.
        UsageError: No row, no labelled row, or no query with a right answer is left.
    """
    query_dataset, gallery_dataset = query_sets[0].dataset, gallery_sets[0].dataset
    one_dataset = query_dataset.name == gallery_dataset.name
    if one_dataset:
        query_sets = gallery_sets = [*query_sets, *gallery_sets]
    query_rows, query_counts = _rows(query_sets, (*where, *query_where))
    gallery_rows, gallery_counts = _rows(gallery_sets, (*where, *gallery_where))
    alone = one_dataset and not query_where and not gallery_where
    if one_dataset:
        self_rows = _positions(gallery_rows, query_rows)
    else:
        own = gallery_dataset.ids.rows_of(query_dataset.ids.take(query_rows))
        self_rows = _positions(gallery_rows, own)
    query_labels, gallery_labels, names = _joined(query_dataset, query_rows, gallery_dataset, gallery_rows)
    relevance = ByLabel(query_labels, gallery_labels, self_rows)
    if not relevance.n_positives().any():
        raise UsageError(
            f"none of the {len(query_rows)} queries has another row of its class in the gallery, so nothing can be measured",
            hint="choose the rows with --where, --query-where and --gallery-where; "
            f"`featstore show {gallery_dataset.name}` lists columns and classes",
        )
    return Problem(
        kind="leave-one-out" if alone else "query/gallery",
        headline="map",
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        relevance=relevance,
        self_rows=self_rows,
        classes=query_labels,
        class_names=names,
        query_counts=query_counts,
        gallery_counts=gallery_counts,
    )


def _rows(sets: Sequence[FeatureSet], where: Sequence[str]) -> tuple[NDArray[np.int64], SideCounts]:
    """Dataset rows that pass the filters, have features in every set, and a class."""
    dataset = sets[0].dataset
    selected = dataset.select(where)
    valid = common_rows(sets, selected)
    used = valid[dataset.labels.codes[valid] >= 0]
    if not len(used):
        raise UsageError(
            f"of {len(selected)} rows of dataset {dataset.name}, {len(valid)} have features in "
            f"{', '.join(dict.fromkeys(item.name for item in sets))}, and none of these has a class",
            hint="retrieval needs labels: `featstore dataset add-columns` adds them"
            if len(valid)
            else f"`featstore show {sets[0].name}` says which rows it has",
        )
    counts = SideCounts(
        selected=len(selected),
        without_feature=len(selected) - len(valid),
        unlabelled=len(valid) - len(used),
        used=len(used),
    )
    return used, counts


def _positions(ordered: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted row stands in an ascending list of rows, −1 where it does not."""
    place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[place] == wanted, place, -1)


def _joined(
    query: Dataset, query_rows: NDArray[np.int64], gallery: Dataset, gallery_rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Labels of both sides in one table of class names."""
    left, right = query.labels, gallery.labels
    names = tuple(sorted({*left.names, *right.names}))
    code = {name: number for number, name in enumerate(names)}
    tables = [np.array([code[name] for name in side.names], np.int64) for side in (left, right)]
    return tables[0][left.codes[query_rows]], tables[1][right.codes[gallery_rows]], names
