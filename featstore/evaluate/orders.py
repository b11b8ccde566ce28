"""In which order the rows of a gallery are backfilled: the rows that gain most first, if somebody can tell which.

G gallery rows, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import BadInputError, NotFoundError, UnknownNameError, UsageError, sample_of
from featstore.evaluate.vectors import UnitVectors
from featstore.store import Categories

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from featstore.evaluate.vectors import Vectors
    from featstore.store import Dataset

__all__ = ["K_CENTER", "PROTOTYPE_DISTANCE", "RANDOM", "UNCERTAINTY", "k_center", "prototype_distances", "row_orders"]

RANDOM = "random"
K_CENTER = "k-center"
PROTOTYPE_DISTANCE = "prototype-distance"
UNCERTAINTY = "uncertainty"
_RANDOM_ORDERS = 3
# centres that are chosen one after another; each costs a pass over the gallery
_CENTRES = 1024


def row_orders(
    order: str,
    dataset: Dataset,
    rows: NDArray[np.int64],
    vectors: Vectors | None = None,
    uncertainty: Callable[[], NDArray[np.floating]] | None = None,
    *,
    seed: int = 0,
    random_orders: int = _RANDOM_ORDERS,
) -> list[NDArray[np.int64]]:
    """In which order gallery rows are backfilled.

    Args:
        order: `random` (several orders, to be averaged); `uncertainty` (rows whose map trusts itself least first),
            `prototype-distance` (rows far from their class first), or either with `-` in front for the reverse;
            `k-center` (rows that nothing backfilled before is near to); a column (ascending) or `-COLUMN` (descending),
            with missing values last; `row` for the order of the dataset; or `@FILE`, whose lines are ids, followed by
            the rest of the rows.
        dataset: What the rows are rows of.
        rows: Dataset rows of the gallery, [G].
        vectors: The gallery before the backfill, [G, D], for orders that look at it.
        uncertainty: Gives the uncertainty of the gallery's rows, [G].
        seed: Of the random orders.
        random_orders: How many of them.

    Returns:
        Arrays [G] of positions in `rows`, the first to be backfilled first.

    Raises:
        UnknownNameError: There is no such column.
        NotFoundError: There is no such file.
        BadInputError: The file names none of the rows.
        UsageError: The order needs labels, and there are none.
    """
    if order == RANDOM:
        return [np.random.default_rng([seed, number]).permutation(len(rows)) for number in range(random_orders)]
    if order == "row":
        return [np.arange(len(rows))]
    if order.startswith("@"):
        return [_from_file(Path(order[1:]), dataset, rows)]
    name = order.removeprefix("-")
    if vectors is not None and order == K_CENTER:
        return [k_center(_unit(vectors))]
    if vectors is not None and name == PROTOTYPE_DISTANCE:
        distances = prototype_distances(_unit(vectors), dataset.labels.codes[rows].astype(np.int64))
        return [_greatest_first(distances, reverse=order.startswith("-"))]
    if uncertainty is not None and name == UNCERTAINTY:
        return [_greatest_first(uncertainty(), reverse=order.startswith("-"))]
    if name not in dataset.column_names:
        known = dict.fromkeys([RANDOM, "row", K_CENTER, PROTOTYPE_DISTANCE, UNCERTAINTY, *dataset.column_names])
        raise UnknownNameError(
            "order of a backfill", name, known, hint="-COLUMN for descending, @FILE for a list of ids"
        )
    column = dataset.column(name)
    values = _name_ranks(column)[column.codes] if isinstance(column, Categories) else np.asarray(column, np.float64)
    chosen = values[rows]
    return [np.argsort(-chosen if order.startswith("-") else chosen, kind="stable")]  # NaN comes last both ways


def _greatest_first(values: NDArray[np.floating], *, reverse: bool) -> NDArray[np.int64]:
    """Greatest values first, or least; NaN last both ways."""
    return np.argsort(values if reverse else -values, kind="stable")


def _name_ranks(column: Categories) -> NDArray[np.float64]:
    """The place of each name in alphabetical order; the last entry, which code −1 takes, is NaN."""
    ranks = np.full(len(column.names) + 1, np.nan)
    ranks[np.argsort(np.array(column.names, dtype=object))] = np.arange(len(column.names))
    return ranks


def _from_file(path: Path, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if not path.is_file():
        raise NotFoundError(f"the order names {path}, which does not exist")
    listed = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    place = {row: position for position, row in enumerate(rows.tolist())}
    first = [place[row] for row in dict.fromkeys(dataset.ids.rows_of(listed).tolist()) if row in place]
    if not first:
        raise BadInputError(
            f"{path} names no row of the gallery: {sample_of(listed)}",
            hint=f"one id a line, such as {dataset.ids[int(rows[0])]}",
        )
    rest = np.ones(len(rows), bool)
    rest[first] = False
    return np.concatenate([np.array(first), np.flatnonzero(rest)])


def k_center(unit: NDArray[np.float32], centres: int = _CENTRES) -> NDArray[np.int64]:
    """Greedy k-center (Gonzalez 1985): each row is the one farthest from all before it; the first is nearest to the mean.

    After so many centres the other rows follow by their distance to the nearest of them, farthest first.

    Args:
        unit: Rows of norm 1, [G, D].
        centres: How many rows are chosen one after another.

    Returns:
        A permutation of the rows, [G].
    """
    chosen: list[int] = []
    nearest = np.full(len(unit), -np.inf, np.float32)
    following = int(np.argmax(unit @ unit.mean(axis=0)))
    for _ in range(min(centres, len(unit))):
        chosen.append(following)
        np.maximum(nearest, unit @ unit[following], out=nearest)
        nearest[following] = np.inf
        following = int(np.argmin(nearest))
    rest = np.argsort(nearest, kind="stable")
    return np.concatenate([np.array(chosen, np.int64), rest[~np.isin(rest, chosen)]])


def prototype_distances(unit: NDArray[np.float32], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far each row is from the prototype of its class, 1 − cosine, float64 [G]; NaN without a class.

    Args:
        unit: Rows of norm 1, [G, D].
        codes: Classes, int64 [G]; −1 for none.

    Raises:
        UsageError: No row has a class.
    """
    known = np.flatnonzero(codes >= 0)
    if not len(known):
        raise UsageError("distances to prototypes need labels, and there are none", hint="order by k-center or random")
    prototypes = np.zeros((int(codes.max()) + 1, unit.shape[1]))
    np.add.at(prototypes, codes[known], unit[known])
    norms = np.linalg.norm(prototypes, axis=1, keepdims=True)
    prototypes = np.divide(prototypes, norms, out=prototypes, where=norms > 0)
    distances = np.full(len(unit), np.nan)
    distances[known] = 1 - np.einsum("gd,gd->g", unit[known], prototypes[codes[known]])
    return distances


def _unit(vectors: Vectors) -> NDArray[np.float32]:
    """All rows, of norm 1."""
    return UnitVectors(vectors).read(0, vectors.rows)
