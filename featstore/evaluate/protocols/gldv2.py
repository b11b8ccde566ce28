"""Google Landmarks v2 retrieval (Weyand et al. 2020): mAP@100 against the solution file, as its official scorer counts.

A query's AP@100 is divided by min(R, 100), R being the number of images that the solution lists, also of those that the
gallery lacks. Queries without a feature count as 0, `Ignored` ones are left out, Public and Private are scored apart. The
official reader splits an empty list of images into one phantom answer; here such a query counts as 0 all the same.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import BadInputError, NotFoundError, UsageError
from featstore.evaluate.protocols.problem import Problem, Selection
from featstore.evaluate.protocols.rows import named_rows, positions, side_sets, valid_rows
from featstore.evaluate.relevance import ByList, listed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["gldv2_problem", "read_solution"]


def read_solution(path: Path, usage: str) -> dict[str, list[str]]:
    """Right answers by query of `retrieval_solution_v2.1.csv` (columns id, images, Usage), of one usage.

    Raises:
        NotFoundError: There is no such file.
        BadInputError: Other columns, a query twice, or no query of that usage.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no solution file {path}", hint="give retrieval_solution_v2.1.csv")
    found: dict[str, list[str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"id", "images", "Usage"} <= set(rows.fieldnames or ()):
            raise BadInputError(f"{path} has columns {rows.fieldnames}", hint="a solution has id, images and Usage")
        for row in rows:
            if row["Usage"].lower() != usage:
                continue
            if row["id"] in found:
                raise BadInputError(f"{path} lists the query {row['id']} twice")
            found[row["id"]] = list(dict.fromkeys(row["images"].split()))
    if not found:
        raise BadInputError(f"{path} has no query of usage {usage}")
    return found


def gldv2_problem(selection: Selection, *, usage: str = "private") -> Problem:
    """The queries of the solution file against all gallery rows that pass the filters.

    Raises:
        UsageError: No solution file was named, or no row is left.
        AlignmentError: The names do not match the datasets.
    """
    if selection.ground_truth is None:
        raise UsageError(
            "the protocol gldv2 needs its solution file", hint="--ground-truth retrieval_solution_v2.1.csv"
        )
    solution = read_solution(selection.ground_truth, usage)
    query_sets, gallery_sets = side_sets(selection)
    allowed, query_counts = valid_rows(query_sets, (*selection.where, *selection.query_where))
    names = list(solution)
    rows = named_rows(query_sets[0].dataset, names, what="queries")
    present = np.flatnonzero(positions(allowed, rows) >= 0)
    query_rows = rows[present]
    gallery_rows, gallery_counts = valid_rows(gallery_sets, (*selection.where, *selection.gallery_where))
    if query_sets[0].dataset.name == gallery_sets[0].dataset.name:
        gallery_rows = np.setdiff1d(gallery_rows, rows)
    answers = [solution[names[at]] for at in present.tolist()]
    flat = sorted({image for images in answers for image in images})
    place = dict(
        zip(
            flat,
            positions(gallery_rows, named_rows(gallery_sets[0].dataset, flat, what="answers")).tolist(),
            strict=True,
        )
    )
    found = [sorted(place[image] for image in images if place[image] >= 0) for images in answers]
    lists = listed(
        np.repeat(np.arange(len(found)), [len(images) for images in found]),
        np.array([at for images in found for at in images], np.int32),
        len(found),
    )
    missing = np.array([len(images) - len(here) for images, here in zip(answers, found, strict=True)], np.int64)
    absent = len(names) - len(present)
    notes = [f"{usage} queries; intervals resample queries: the solution names no classes"]
    if absent:
        notes.append(f"{absent} queries of the solution have no feature and count as 0")
    if missing.any():
        notes.append(f"{int(missing.sum())} right answers are not in the gallery and count as never found")
    return Problem(
        kind=f"gldv2-{usage}",
        headline="map@100",
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        relevance=ByList(lists, listed(np.zeros(0, np.int64), np.zeros(0, np.int32), len(found)), len(gallery_rows)),
        self_rows=np.full(len(query_rows), -1),
        classes=np.arange(len(names)),
        class_names=tuple(
            [names[at] for at in present.tolist()]
            + [name for at, name in enumerate(names) if at not in set(present.tolist())]
        ),
        query_counts=query_counts.model_copy(update={"used": len(query_rows)}),
        gallery_counts=gallery_counts.model_copy(update={"used": len(gallery_rows)}),
        metrics=("map@100", "precision@10", "recall@1"),
        missing=missing,
        unanswered_are_zero=True,
        absent=absent,
        notes=tuple(notes),
    )
