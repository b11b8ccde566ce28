"""Searching a feature set: checked spaces, an index where there is one, exact scores in any case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featstore.convert.tables import open_table
from featstore.errors import AlignmentError, UsageError
from featstore.evaluate.neighbours import require_k
from featstore.evaluate.vectors import ArrayVectors, PreparedRows, SetVectors
from featstore.progress import SILENT, Progress
from featstore.search.exact import exact_top_k
from featstore.search.stored import IndexRecord, open_index
from featstore.spaces import Space, check_comparable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featstore.evaluate.vectors import Vectors
    from featstore.store import Dataset, Store

__all__ = ["Hits", "Queries", "queries_from_file", "queries_from_set", "search"]


class Queries(NamedTuple):
    """What searches.

    Attributes:
        name: What they are called in messages.
        ids: One for each query.
        vectors: [Q, D].
        space: Their space; None when nobody said.
        dataset: The dataset they are rows of; None for a file.
    """

    name: str
    ids: Sequence[str]
    vectors: Vectors
    space: Space | None
    dataset: str | None


@dataclass(frozen=True, slots=True)
class Hits:
    """What was found.

    Attributes:
        set: The gallery, with its version.
        index: The index that was searched; None for an exact search.
        query_ids: One for each query.
        ids: Ids of the nearest rows of each query, nearest first.
        labels: Their class names, None where unlabelled.
        scores: Their cosines.
    """

    set: str
    index: IndexRecord | None
    query_ids: list[str]
    ids: list[list[str]]
    labels: list[list[str | None]]
    scores: list[list[float]]


def queries_from_set(store: Store, ref: str, where: Sequence[str] = ()) -> Queries:
    """The rows of a feature set as queries.

    Args:
        store: Where it is.
        ref: The set.
        where: Filters, see `Dataset.select`.
    """
    features = store.features(ref)
    rows = np.intersect1d(features.dataset.select(where), features.valid_rows())
    if not len(rows):
        raise UsageError(f"no row of {features.name} that passes the filters has a feature", hint="choose others")
    ids = features.dataset.ids.take(rows)
    return Queries(features.ref, ids, SetVectors(features, rows), features.space, features.dataset.name)


def queries_from_file(path: Path, *, space: str | None = None) -> Queries:
    """The rows of a file of features as queries; see `featstore.convert.formats` for what is read.

    Args:
        path: The file.
        space: Name of the vectors' space, as `featstore import --space` was told; None when unknown.
    """
    with open_table(path) as table:
        vectors = np.concatenate(list(table.matrix.blocks()))
        ids = table.ids or [str(row) for row in range(len(vectors))]
    named = Space.named(space, vectors.shape[1]) if space else None
    return Queries(path.name, ids, ArrayVectors(vectors, path.name), named, None)


def search(
    store: Store,
    ref: str,
    queries: Queries,
    k: int = 10,
    *,
    where: Sequence[str] = (),
    exact: bool = False,
    without_self: bool = False,
    allow_unrelated: bool = False,
    progress: Progress = SILENT,
) -> Hits:
    """The k nearest rows of a feature set for each query.

    Args:
        store: Where the set is.
        ref: The gallery.
        queries: What searches it.
        k: How many rows, at least 1.
        where: Filters for gallery rows; a filtered search is exact.
        exact: Leave an index aside.
        without_self: Leave the query itself out of its results, by id.
        allow_unrelated: Search although nothing declares the spaces comparable.
        progress: Listener.

    Raises:
        UsageError: `k` is below 1, or no row is left.
        AlignmentError: The widths differ.
        SpaceMismatchError: The spaces are unrelated, or unknown, and that is not allowed.
        NotFoundError: The set's index was built from another version or other rows.
        CorruptStoreError: The set's index is damaged.
    """
    require_k(k)
    features = store.features(ref)
    if queries.vectors.width != features.width:
        raise AlignmentError(
            f"{queries.name} has width {queries.vectors.width}, {features.name} {features.width}",
            hint="search with features of the same model, or map them first: featstore apply",
        )
    if not allow_unrelated:
        if queries.space is None:
            raise UsageError(
                f"nobody said which space the vectors of {queries.name} lie in",
                hint=f"name it as `featstore import --space` did, e.g. --space {features.space.name}; "
                "or search all the same with --allow-unrelated",
            )
        check_comparable(
            queries.space,
            features.space,
            left_set=queries.name,
            right_set=features.name,
            hint="search with a model that is declared comparable, or all the same with --allow-unrelated",
        )
    rows = features.valid_rows()
    if where:
        rows = np.intersect1d(features.dataset.select(where), rows)
    if not len(rows):
        raise UsageError(f"no row of {features.name} that passes the filters has a feature", hint="choose others")
    gallery = SetVectors(features, rows)
    stored = None if exact or where else open_index(store, features)
    wanted = k + int(without_self)
    if stored is None:
        found = exact_top_k(queries.vectors, gallery, wanted, progress=progress)
    else:
        unit = PreparedRows(queries.vectors, 0, side="query").block(0, queries.vectors.rows)
        found = stored[1].nearest(unit, gallery, wanted)
    shown = [
        _shown(near, scores, None if not without_self else id_, rows, features.dataset, k)
        for near, scores, id_ in zip(found.rows, found.scores, queries.ids, strict=True)
    ]
    return Hits(
        set=features.ref,
        index=stored[0] if stored else None,
        query_ids=list(queries.ids),
        ids=[[hit[0] for hit in hits] for hits in shown],
        labels=[[hit[1] for hit in hits] for hits in shown],
        scores=[[hit[2] for hit in hits] for hits in shown],
    )


def _shown(
    near: NDArray[np.int64],
    scores: NDArray[np.float64],
    own: str | None,
    rows: NDArray[np.int64],
    dataset: Dataset,
    k: int,
) -> list[tuple[str, str | None, float]]:
    """Id, class and score of each row that was found, without the query's own id."""
    there = near >= 0
    found = rows[near[there]]
    codes = dataset.labels.codes[found]
    names = [dataset.labels.names[code] if code >= 0 else None for code in codes.tolist()]
    hits = zip(dataset.ids.take(found), names, scores[there].tolist(), strict=True)
    return [hit for hit in hits if hit[0] != own][:k]
