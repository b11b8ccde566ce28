"""Revisited Oxford and Paris (Radenović et al. 2018): 70 queries, easy, medium and hard ground truth, trapezoidal AP.

| setting | right answers | junk (removed from the ranking) |
|---|---|---|
| easy | easy | junk and hard |
| medium | easy and hard | junk |
| hard | hard | junk and easy |

Queries without a right answer in a setting are left out of its means. Distractors (R1M) come after the database.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from featstore.errors import AlignmentError, BadInputError, IncompleteError, NotFoundError, UsageError, sample_of
from featstore.evaluate.protocols.plain_pickle import read_plain_pickle
from featstore.evaluate.protocols.problem import Problem, Selection
from featstore.evaluate.protocols.rows import named_rows, positions, side_sets, valid_rows
from featstore.evaluate.relevance import ByList, Listed, listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featstore.store import FeatureSet

__all__ = ["RevisitedTruth", "Setting", "read_revisited", "revisited_problem"]

Setting = Literal["easy", "medium", "hard"]
_ANSWERS: dict[Setting, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


class RevisitedTruth(NamedTuple):
    """The published ground truth.

    Attributes:
        images: Names of the database images (`imlist`).
        queries: Names of the query images (`qimlist`); they are not in the database.
        truth: For each query the places in `images` of its `easy`, `hard` and `junk` images.
    """

    images: list[str]
    queries: list[str]
    truth: list[dict[str, list[int]]]


def read_revisited(path: Path) -> RevisitedTruth:
    """Read `gnd_roxford5k` or `gnd_rparis6k`, the published pickle or the same structure as JSON. Nothing is executed.

    Raises:
        NotFoundError: There is no such file.
        UntrustedError: The pickle holds more than plain data.
        BadInputError: Another structure.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no ground truth {path}", hint="give gnd_roxford5k.pkl or gnd_rparis6k.pkl")
    try:
        found: Any = json.loads(path.read_bytes()) if path.suffix == ".json" else read_plain_pickle(path)
        images, queries = ([str(name) for name in found[key]] for key in ("imlist", "qimlist"))
        truth = [
            {key: [int(place) for place in entry[key]] for key in ("easy", "hard", "junk")} for entry in found["gnd"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(
            f"{path} is not the ground truth of revisited Oxford or Paris: {error!r}",
            hint="it has to hold imlist, qimlist and gnd, a list of easy, hard and junk for each query",
        ) from None
    places = [place for entry in truth for group in entry.values() for place in group]
    if len(truth) != len(queries) or not all(0 <= place < len(images) for place in places):
        raise BadInputError(f"{path}: {len(truth)} entries for {len(queries)} queries, or places beyond imlist")
    return RevisitedTruth(images, queries, truth)


def revisited_problem(selection: Selection, *, setting: Setting) -> Problem:
    """The queries and the database of the ground truth file, found among the rows by name.

    Raises:
        UsageError: No ground truth file was named, or no query has a right answer.
        IncompleteError: A query or a database image has no feature.
        AlignmentError: The names do not match the datasets.
    """
    if selection.ground_truth is None:
        raise UsageError(
            "the protocol revisited needs its ground truth", hint="--ground-truth gnd_roxford5k.pkl (or .json)"
        )
    truth = read_revisited(selection.ground_truth)
    query_sets, gallery_sets = side_sets(selection)
    query_rows, query_counts = _present(
        query_sets, truth.queries, (*selection.where, *selection.query_where), "queries"
    )
    database, gallery_counts = _present(
        gallery_sets, truth.images, (*selection.where, *selection.gallery_where), "database images"
    )
    gallery_rows = np.sort(database)
    place = positions(gallery_rows, database)
    answers, junk = (
        _listed([[at for group in groups for at in entry[group]] for entry in truth.truth], place)
        for groups in _ANSWERS[setting]
    )
    n = len(truth.queries)
    return Problem(
        kind=f"revisited-{setting}",
        headline="map:trapezoid",
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        relevance=ByList(answers, junk, len(gallery_rows)),
        self_rows=np.full(n, -1),
        classes=np.arange(n),
        class_names=tuple(truth.queries),
        query_counts=query_counts,
        gallery_counts=gallery_counts,
        metrics=("map:trapezoid", *(f"precision@{k}:revisited" for k in (1, 5, 10))),
        notes=("intervals resample queries: the ground truth names no classes",),
    )


def _present(
    sets: Sequence[FeatureSet], names: list[str], where: Sequence[str], what: str
) -> tuple[NDArray[np.int64], Any]:
    dataset = sets[0].dataset
    rows = named_rows(dataset, names, what=what)
    valid, _ = valid_rows(sets, where)
    missing = [name for name, at in zip(names, positions(valid, rows).tolist(), strict=True) if at < 0]
    if missing:
        raise IncompleteError(
            f"{len(missing)} of {len(names)} {what} have no feature in every set of dataset {dataset.name}: "
            + sample_of(missing),
            hint="the published numbers need all of them: extract or import the rest",
        )
    if len(np.unique(rows)) < len(rows):
        raise AlignmentError(f"two {what} of the ground truth are the same row of dataset {dataset.name}")
    counts = valid_rows(sets, where)[1].model_copy(update={"used": len(rows)})
    return rows, counts


def _listed(groups: list[list[int]], place: NDArray[np.int64]) -> Listed:
    query = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    rows = place[np.array([at for group in groups for at in group], np.int64)].astype(np.int32)
    order = np.lexsort((rows, query))
    return listed(query[order], rows[order], len(groups))
