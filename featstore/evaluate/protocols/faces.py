"""Face protocols: 1:1 verification over all pairs, 1:N identification with rejection, of rows or of IJB templates.

Templates come from columns of the dataset: `template` (required), `media` (the medium a row is part of; without it each
row is its own) and `detector_score` (weights; 1 without it). The flag that public tools disagree about is part of the
protocol's name: `ijb-1:1` keeps the norms of rows, as the published numbers do, `ijb-1:1:unit` normalises rows first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import BadInputError, UsageError, sample_of
from featstore.evaluate.protocols.problem import Problem, Selection
from featstore.evaluate.protocols.retrieval import retrieval_problem
from featstore.evaluate.protocols.rows import codes_of, joined, labelled_rows, positions, side_sets
from featstore.evaluate.relevance import ByLabel
from featstore.evaluate.templates import Templates
from featstore.store import Categories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featstore.evaluate.metrics import Measure
    from featstore.store import Dataset

__all__ = ["face_problem", "template_problem"]

_METRICS: dict[Measure, tuple[str, ...]] = {
    "verification": ("tar@far=1e-4", "tar@far=1e-3", "tar@far=1e-2", "tar@far=1e-1"),
    "identification": ("tpir@fpir=0.01", "tpir@fpir=0.1"),
}


def face_problem(selection: Selection, *, measure: Measure) -> Problem:
    """Every row against every gallery row: genuine when of one class, without the pair of a row with itself.

    Within one dataset a pair of two rows is scored in both directions; they are the same score in a cell of one model.

    Raises:
        As `retrieval_problem`.
    """
    problem = retrieval_problem(selection)
    metrics = _METRICS[measure]
    return replace(problem, kind=measure, measure=measure, headline=metrics[0], metrics=metrics)


def template_problem(selection: Selection, *, measure: Measure, keep_norm: bool = True) -> Problem:
    """The same over templates.

    Raises:
        UsageError: There is no column `template`, or no row with a template and a class is left.
        BadInputError: A template has rows of several classes, or weights that are missing or negative.
        AlignmentError: The sets of one side belong to different datasets.
    """
    query_sets, gallery_sets = side_sets(selection)
    query, gallery = query_sets[0].dataset, gallery_sets[0].dataset
    query_rows, query_counts = labelled_rows(query_sets, (*selection.where, *selection.query_where))
    gallery_rows, gallery_counts = labelled_rows(gallery_sets, (*selection.where, *selection.gallery_where))
    query_names, gallery_names = _templates(query), _templates(gallery)
    query_codes, gallery_codes, _ = joined(query_names, query_rows, gallery_names, gallery_rows)
    query_pool, query_rows = _pool(query, query_rows, query_codes, keep_norm=keep_norm)
    gallery_pool, gallery_rows = _pool(gallery, gallery_rows, gallery_codes, keep_norm=keep_norm)
    firsts = query_rows[query_pool.first_rows], gallery_rows[gallery_pool.first_rows]
    query_labels, gallery_labels, names = joined(query.labels, firsts[0], gallery.labels, firsts[1])
    self_rows = np.full(len(query_pool), -1)
    if query.name == gallery.name:
        self_rows = positions(*(np.unique(codes[codes >= 0]) for codes in (gallery_codes, query_codes)))
    metrics = _METRICS[measure]
    return Problem(
        kind=("ijb-1:1" if measure == "verification" else "ijb-1:n") + ("" if keep_norm else ":unit"),
        headline=metrics[0],
        query_rows=firsts[0],
        gallery_rows=firsts[1],
        relevance=ByLabel(query_labels, gallery_labels, self_rows),
        self_rows=self_rows,
        classes=query_labels,
        class_names=names,
        query_counts=query_counts,
        gallery_counts=gallery_counts,
        metrics=metrics,
        measure=measure,
        query_templates=replace(query_pool, order=query_rows[query_pool.order]),
        gallery_templates=replace(gallery_pool, order=gallery_rows[gallery_pool.order]),
        notes=(
            f"{len(query_rows):,} query rows in {len(query_pool):,} templates",
            f"{len(gallery_rows):,} gallery rows in {len(gallery_pool):,} templates",
        ),
    )


def _templates(dataset: Dataset) -> Categories:
    if "template" not in dataset.column_names:
        raise UsageError(
            f"dataset {dataset.name} has no column 'template', which says which rows belong together",
            hint="`featstore dataset add-columns` adds it, and 'media' and 'detector_score'; "
            "--protocol verification or identification takes rows as they are",
        )
    return codes_of(dataset, "template")


def _pool(
    dataset: Dataset, rows: NDArray[np.int64], templates: NDArray[np.int64], *, keep_norm: bool
) -> tuple[Templates, NDArray[np.int64]]:
    """Group rows that have a template; their places refer to the rows that are returned."""
    inside = templates >= 0
    rows, templates = rows[inside], templates[inside]
    if not len(rows):
        raise UsageError(f"no row of dataset {dataset.name} has a template", hint="check the column 'template'")
    media = codes_of(dataset, "media").codes[rows].astype(np.int64) if "media" in dataset.column_names else None
    if media is not None:
        alone = media < 0
        media[alone] = media.max(initial=0) + 1 + np.arange(int(alone.sum()))
    weights = None
    if "detector_score" in dataset.column_names:
        column = dataset.column("detector_score")
        if isinstance(column, Categories) or not (column[rows] >= 0).all():
            raise BadInputError(
                f"the column 'detector_score' of dataset {dataset.name} has missing or negative values",
                hint="give every row a weight, or leave rows out with --where",
            )
        weights = column[rows]
    pool = Templates.of(templates, media, weights, keep_norm=keep_norm)
    labels = dataset.labels.codes[rows]
    starts = pool.media_starts[pool.template_media]
    ordered = labels[pool.order]
    least, most = np.minimum.reduceat(ordered, starts), np.maximum.reduceat(ordered, starts)
    mixed = np.flatnonzero(least != most)
    if len(mixed):
        ids = dataset.ids.take(rows[pool.first_rows[mixed[:5]]])
        raise BadInputError(
            f"{len(mixed)} templates of dataset {dataset.name} have rows of several classes, those of {sample_of(ids)}",
            hint="a template shows one person",
        )
    return pool, rows
