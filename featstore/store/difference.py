"""What differs between two versions, two feature sets or two datasets: row by row, matched by id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.spaces import FieldDifference, difference
from featstore.store.columns import Categories, Column
from featstore.store.dataset import Dataset
from featstore.store.features import FeatureSet
from featstore.store.store import Store

__all__ = ["Difference", "compare"]

_BLOCK_ROWS = 1 << 14
_LISTED = 10


@dataclass(slots=True)
class Difference:
    """What the second has that the first has not, and the other way round.

    Rows without a feature, and removed ones, count as not there.

    Attributes:
        left: Reference of the first, with its version.
        right: Reference of the second.
        same: Rows that are equal in both.
        added: Rows only the second has.
        removed: Rows only the first has.
        changed: Rows of both that differ: in a component of their features; of datasets, in a column both have.
        examples: A few ids by `added`, `removed` and `changed`.
        fields: What else differs, field by field: spaces and dtypes of sets; root and columns of datasets.
        largest: Largest absolute difference of a component; None where no features were compared.
        lowest_cosine: Lowest cosine similarity of two features of one row.
    """

    left: str
    right: str
    same: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    examples: dict[str, list[str]] = field(default_factory=lambda: {"added": [], "removed": [], "changed": []})
    fields: list[FieldDifference] = field(default_factory=list)
    largest: float | None = None
    lowest_cosine: float | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed or self.fields)


def compare(store: Store, left: str, right: str) -> Difference:
    """Compare two feature sets or two datasets, at any versions, in bounded memory.

    Args:
        store: The store.
        left: `DATASET/NAME[@version]`, or `DATASET[@version]`.
        right: The same kind of thing.

    Raises:
        UsageError: one is a dataset and the other a feature set.
        UnknownNameError: nothing has that name.
    """
    if ("/" in left) != ("/" in right):
        raise UsageError(
            f"{left} and {right} are a dataset and a feature set", hint="give two feature sets, or two datasets"
        )
    if "/" in left:
        return _compare_sets(store.features(left), store.features(right))
    return _compare_datasets(store.dataset(left), store.dataset(right))


def _compare_sets(left: FeatureSet, right: FeatureSet) -> Difference:
    found = Difference(left.ref, right.ref, fields=difference(left.space, right.space))
    if left.dtype != right.dtype:
        found.fields.append(FieldDifference("dtype", left.dtype.name, right.dtype.name))
    if left.record.mixture or right.record.mixture:
        found.fields += _moved(left, right)

    def differ(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.bool_]:
        if left.width != right.width:
            return np.ones(len(ours), dtype=bool)
        a, b = left.gather(ours).astype(np.float64), right.gather(theirs).astype(np.float64)
        found.largest = max(found.largest or 0.0, float(np.abs(a - b).max()))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.einsum("nd,nd->n", a, b)[norms > 0] / norms[norms > 0]
        lowest = 1.0 if found.lowest_cosine is None else found.lowest_cosine
        found.lowest_cosine = min([lowest, *cosines.tolist()])
        return np.asarray((a != b).any(axis=1))

    _compare_rows(found, left.dataset, right.dataset, left.valid_rows(), right.valid_rows(), differ)
    return found


def _moved(left: FeatureSet, right: FeatureSet) -> list[FieldDifference]:
    """How many rows lie in each space, where one of the sets is mixed and that differs."""
    ours, theirs = (dict(side.rows_by_space()) for side in (left, right))
    names = dict.fromkeys([*ours, *theirs])
    counts = [(name, ours.get(name, 0), theirs.get(name, 0)) for name in names]
    return [FieldDifference(f"rows in {name}", f"{a:,}", f"{b:,}") for name, a, b in counts if a != b]


def _compare_datasets(left: Dataset, right: Dataset) -> Difference:
    found = Difference(f"{left.name}@{left.version}", f"{right.name}@{right.version}")
    if left.root != right.root:
        found.fields.append(FieldDifference("root", left.root or "(none)", right.root or "(none)"))
    for name in sorted({*left.column_names} ^ {*right.column_names}):
        ours, theirs = ("there" if name in side.column_names else "(none)" for side in (left, right))
        found.fields.append(FieldDifference(f"column {name}", ours, theirs))
    pairs = [(left.column(name), right.column(name)) for name in sorted({*left.column_names} & {*right.column_names})]

    def differ(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.bool_]:
        differs = np.zeros(len(ours), dtype=bool)
        for a, b in pairs:
            differs |= _values_differ(a[ours], b[theirs])
        return differs

    _compare_rows(found, left, right, left.live_rows(), right.live_rows(), differ)
    return found


def _compare_rows(
    found: Difference,
    left: Dataset,
    right: Dataset,
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    differ: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]],
) -> None:
    """Match rows of two datasets by id, and count."""
    there = np.zeros(right.rows, dtype=bool)
    there[theirs] = True
    matched = np.zeros(right.rows, dtype=bool)
    for rows, partners in _partners(left, right, ours):
        both = partners >= 0
        both[both] = there[partners[both]]
        matched[partners[both]] = True
        _add(found, "removed", left, rows[~both])
        if both.any():
            differs = differ(rows[both], partners[both])
            _add(found, "changed", left, rows[both][differs])
            found.same += int((~differs).sum())
    _add(found, "added", right, theirs[~matched[theirs]])


def _partners(
    left: Dataset, right: Dataset, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Blocks of rows and their rows in the other dataset, −1 where it has none of that id."""
    aligned = (left.name, left.layout) == (right.name, right.layout)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        partners = np.where(block < right.rows, block, -1) if aligned else right.ids.rows_of(left.ids.take(block))
        yield block, partners


def _add(found: Difference, kind: str, dataset: Dataset, rows: NDArray[np.int64]) -> None:
    setattr(found, kind, getattr(found, kind) + len(rows))
    listed = found.examples[kind]
    listed += dataset.ids.take(rows[: _LISTED - len(listed)])


def _values_differ(left: Column, right: Column) -> NDArray[np.bool_]:
    if isinstance(left, Categories) and isinstance(right, Categories):
        return np.array([a != b for a, b in zip(left.texts(), right.texts(), strict=True)], dtype=bool)
    if isinstance(left, Categories) or isinstance(right, Categories):
        return np.ones(len(left), dtype=bool)
    both_missing = np.isnan(left.astype(np.float64)) & np.isnan(right.astype(np.float64))
    return np.asarray((left != right) & ~both_missing)
