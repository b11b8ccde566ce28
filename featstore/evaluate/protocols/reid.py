"""Person re-identification as on Market-1501 (Zheng et al. 2015): other cameras only, junk dropped, distractors kept.

A gallery row with the query's identity *and* camera is junk for that query. Rows of identity −1 are junk for all, rows of
identity 0 distractors. Queries without a right answer left are excluded. AP is the finite sum, CMC@k is `recall@k`.
"""

from __future__ import annotations

import numpy as np

from featstore.errors import UsageError
from featstore.evaluate.protocols.problem import Problem, Selection
from featstore.evaluate.protocols.retrieval import require_answers
from featstore.evaluate.protocols.rows import codes_of, joined, labelled_rows, self_positions, side_sets
from featstore.evaluate.relevance import ByLabel, OtherCameras

__all__ = ["reid_problem"]

_JUNK = "-1"
_DISTRACTORS = frozenset({"0", "0000"})
_CAMERAS = ("camera", "cam", "camid")


def reid_problem(selection: Selection) -> Problem:
    """Labels are identities; the column `camera` (or `cam`, `camid`) says where a row was seen.

    Raises:
        UsageError: No camera column, or no query with a right answer is left.
        AlignmentError: The sets of one side belong to different datasets.
    """
    query_sets, gallery_sets = side_sets(selection)
    query, gallery = query_sets[0].dataset, gallery_sets[0].dataset
    query_rows, query_counts = labelled_rows(query_sets, (*selection.where, *selection.query_where))
    gallery_rows, gallery_counts = labelled_rows(gallery_sets, (*selection.where, *selection.gallery_where))
    keep = ~_named(gallery.labels.names, gallery.labels.codes[gallery_rows], {_JUNK})
    gallery_rows = gallery_rows[keep]
    query_labels, gallery_labels, names = joined(query.labels, query_rows, gallery.labels, gallery_rows)
    nobody = {_JUNK, *_DISTRACTORS}
    query_labels[_named(names, query_labels, nobody)] = -1
    gallery_labels[_named(names, gallery_labels, nobody)] = -1
    query_cameras, gallery_cameras, _ = joined(
        codes_of(query, _camera(query.column_names)),
        query_rows,
        codes_of(gallery, _camera(gallery.column_names)),
        gallery_rows,
    )
    self_rows = self_positions(query, query_rows, gallery, gallery_rows)
    problem = Problem(
        kind="reid",
        headline="map",
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        relevance=OtherCameras(ByLabel(query_labels, gallery_labels, self_rows), query_cameras, gallery_cameras),
        self_rows=self_rows,
        classes=query_labels,
        class_names=names,
        query_counts=query_counts,
        gallery_counts=gallery_counts.model_copy(update={"used": len(gallery_rows)}),
        metrics=("map", "recall@1", "recall@5", "recall@10", "recall@20"),
        notes=(f"{int((~keep).sum())} gallery rows of identity −1 (junk) dropped",) if not keep.all() else (),
    )
    return require_answers(problem, gallery)


def _named(
    names: tuple[str, ...], codes: np.typing.NDArray[np.integer], wanted: set[str]
) -> np.typing.NDArray[np.bool_]:
    return np.isin(codes, [code for code, name in enumerate(names) if name in wanted])


def _camera(columns: list[str]) -> str:
    for column in _CAMERAS:
        if column in columns:
            return column
    raise UsageError(
        f"the protocol reid needs a column that says which camera saw a row ({', '.join(_CAMERAS)}), and there is none",
        hint="`featstore dataset add-columns` adds one; --protocol retrieval ignores cameras",
    )
