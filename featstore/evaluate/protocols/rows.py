"""Choosing the rows of a protocol: the same for every set on a side, so that all cells see the same rows."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import AlignmentError, UsageError, sample_of
from featstore.evaluate.protocols.problem import SideCounts
from featstore.store import Categories, common_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from featstore.evaluate.protocols.problem import Selection
    from featstore.store import Dataset, FeatureSet

__all__ = [
    "codes_of",
    "joined",
    "labelled_rows",
    "named_rows",
    "positions",
    "self_positions",
    "side_sets",
    "valid_rows",
]


def side_sets(selection: Selection) -> tuple[Sequence[FeatureSet], Sequence[FeatureSet]]:
    """The sets whose features a query and a gallery row need: within one dataset all of them on either side."""
    query, gallery = selection.query_sets, selection.gallery_sets
    if query[0].dataset.name != gallery[0].dataset.name:
        return query, gallery
    both = [*query, *gallery]
    return both, both


def valid_rows(sets: Sequence[FeatureSet], where: Sequence[str]) -> tuple[NDArray[np.int64], SideCounts]:
    """Dataset rows that pass the filters and have features in every set, with or without a class.

    Raises:
        UsageError: None is left.
    """
    selected = sets[0].dataset.select(where)
    valid = common_rows(sets, selected)
    if not len(valid):
        raise UsageError(
            f"of {len(selected)} rows of dataset {sets[0].dataset.name}, 0 have features in "
            + ", ".join(dict.fromkeys(item.name for item in sets)),
            hint=f"`featstore show {sets[0].name}` says which rows it has",
        )
    counts = SideCounts(
        selected=len(selected), without_feature=len(selected) - len(valid), unlabelled=0, used=len(valid)
    )
    return valid, counts


def labelled_rows(sets: Sequence[FeatureSet], where: Sequence[str]) -> tuple[NDArray[np.int64], SideCounts]:
    """Dataset rows that pass the filters, have features in every set, and a class.

    Raises:
        UsageError: None is left.
    """
    valid, counts = valid_rows(sets, where)
    used = valid[sets[0].dataset.labels.codes[valid] >= 0]
    if not len(used):
        raise UsageError(
            f"of {counts.selected} rows of dataset {sets[0].dataset.name}, {len(valid)} have features in "
            f"{', '.join(dict.fromkeys(item.name for item in sets))}, and none of these has a class",
            hint="retrieval needs labels: `featstore dataset add-columns` adds them",
        )
    return used, counts.model_copy(update={"unlabelled": len(valid) - len(used), "used": len(used)})


def positions(ordered: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted row stands in an ascending list of rows, −1 where it does not."""
    if not len(ordered):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[place] == wanted, place, -1)


def self_positions(
    query: Dataset, query_rows: NDArray[np.int64], gallery: Dataset, gallery_rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each query stands in the gallery itself: by row within one dataset, else by id; −1 where it does not."""
    if query.name == gallery.name:
        return positions(gallery_rows, query_rows)
    return positions(gallery_rows, gallery.ids.rows_of(query.ids.take(query_rows)))


def joined(
    query: Categories, query_rows: NDArray[np.int64], gallery: Categories, gallery_rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Codes of both sides in one table of names, and the table; −1 where there is none."""
    names = tuple(sorted({*query.names, *gallery.names}))
    code = {name: number for number, name in enumerate(names)}
    tables = [np.array([*(code[name] for name in side.names), -1], np.int64) for side in (query, gallery)]
    return tables[0][query.codes[query_rows]], tables[1][gallery.codes[gallery_rows]], names


def codes_of(dataset: Dataset, column: str) -> Categories:
    """A column as categories, whether it holds names or numbers.

    Raises:
        UnknownNameError: There is no such column.
    """
    found: Any = dataset.column(column)
    if isinstance(found, Categories):
        return found
    return Categories.of([None if value != value else f"{value:g}" for value in found.tolist()])


def named_rows(dataset: Dataset, names: Sequence[str], *, what: str) -> NDArray[np.int64]:
    """Dataset rows of items as a ground truth names them: the id, or its file name without folders and extension.

    Returns:
        int64 [len(names)]; −1 for what is not there.

    Raises:
        AlignmentError: Nothing is there at all, or a name means several rows.
    """
    rows = dataset.ids.rows_of(list(names))
    if (rows < 0).any():
        stems = [PurePosixPath(id_).stem for id_ in dataset.ids]
        by_stem = dict(zip(stems, range(len(stems)), strict=True))
        missing = np.flatnonzero(rows < 0)
        wanted = [PurePosixPath(names[place]).stem for place in missing.tolist()]
        rows[missing] = [by_stem.get(stem, -1) for stem in wanted]
        counts = Counter(stems)
        ambiguous = [stem for stem in wanted if counts[stem] > 1]
        if ambiguous:
            raise AlignmentError(
                f"{len(ambiguous)} {what} mean several rows of dataset {dataset.name}: {sample_of(ambiguous)}",
                hint="name them by their whole ids",
            )
    if len(names) and (rows < 0).all():
        raise AlignmentError(
            f"none of the {len(names)} {what} is in dataset {dataset.name}; they look like {sample_of(names, 3)}, "
            f"its ids like {sample_of(dataset.ids.take(range(min(3, dataset.rows))))}",
            hint="give the ground truth of this dataset; ids match whole, or by file name without extension",
        )
    return rows
