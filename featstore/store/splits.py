"""Splitting the rows of a dataset at random, by image or by class, so that the same seed gives the same split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.store.columns import Categories, Column
from featstore.store.dataset import Dataset
from featstore.store.store import Store

__all__ = ["parse_fractions", "split_dataset"]

_TAKEN = ("id", "label")


def parse_fractions(text: str) -> dict[str, float]:
    """`train=0.7,test=0.3` → fractions by part, in order.

    Raises:
        UsageError: another form, a fraction outside (0, 1], or a sum other than 1.
    """
    parts: dict[str, float] = {}
    for piece in text.split(","):
        name, equals, number = piece.partition("=")
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if not equals or not name.strip() or not 0 < fraction <= 1 or name.strip() in parts:
            raise UsageError(f"cannot read the fractions '{text}'", hint="write train=0.7,test=0.3")
        parts[name.strip()] = fraction
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise UsageError(f"the fractions '{text}' add up to {sum(parts.values()):g}", hint="make them add up to 1")
    return parts


def split_dataset(
    store: Store,
    name: str,
    fractions: Mapping[str, float],
    *,
    by: Literal["image", "class"],
    seed: int = 0,
    column: str = "split",
    where: Sequence[str] = (),
) -> Dataset:
    """Give every row a part, as a text column of a new version.

    By image, each class is divided on its own (every part gets its share of every class, as far as whole images go); by class,
    all images of a class fall into one part. Unlabelled rows form one more class when splitting by image.

    Args:
        store: The store.
        name: The dataset.
        fractions: Share of each part, adding up to 1.
        by: What is divided.
        seed: Same seed, same rows: same split.
        column: Where the part is written.
        where: Divide these rows only; the others keep what the column held before, or nothing.

    Raises:
        UsageError: nothing to divide by (no labels, fewer classes than parts), or a column that is not there for parts.
    """
    dataset = store.dataset(name)
    if column in _TAKEN:
        raise UsageError(f"column '{column}' says which class or row it is", hint="choose another --column")
    rows = dataset.select(where)
    codes = dataset.labels.codes[rows]
    generator = np.random.default_rng(seed)
    if by == "class":
        parts = _by_class(codes, fractions, generator, name)
    else:
        parts = np.empty(len(rows), dtype=np.int64)
        for code in np.unique(codes):
            members = np.flatnonzero(codes == code)
            parts[members] = generator.permutation(_shares(len(members), fractions, generator))
    texts = _previous(dataset, column)
    names = list(fractions)
    for row, part in zip(rows.tolist(), parts.tolist(), strict=True):
        texts[row] = names[part]
    made = {"split": column, "by": by, "seed": seed, "fractions": dict(fractions), "where": list(where)}
    return store.add_columns(name, {column: texts}, provenance=made)


def _by_class(
    codes: NDArray[np.int32], fractions: Mapping[str, float], generator: np.random.Generator, name: str
) -> NDArray[np.int64]:
    classes = np.unique(codes[codes >= 0])
    if (codes < 0).any() or len(classes) < len(fractions):
        raise UsageError(
            f"dataset {name} has {len(classes)} classes and {int((codes < 0).sum())} unlabelled rows here",
            hint=f"splitting by class into {len(fractions)} parts needs a label on every row and at least that many classes",
        )
    part_of = dict(zip(classes.tolist(), generator.permutation(_shares(len(classes), fractions)).tolist(), strict=True))
    return np.array([part_of[code] for code in codes.tolist()], dtype=np.int64)


def _shares(
    count: int, fractions: Mapping[str, float], generator: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """Part number of `count` items in order: whole shares first, the items left over to the largest remainders.

    With a generator, remainders are drawn at random in proportion, so that many small classes still add up to the fractions.
    """
    exact = np.array(list(fractions.values())) * count
    whole = np.floor(exact + 1e-9).astype(np.int64)
    left = count - int(whole.sum())
    remainder = np.clip(exact - whole, 0, None)
    if left and generator is not None:
        chosen = generator.choice(len(whole), size=left, replace=False, p=remainder / remainder.sum())
    else:
        chosen = np.argsort(-remainder, kind="stable")[:left]
    whole[chosen] += 1
    return np.repeat(np.arange(len(whole)), whole)


def _previous(dataset: Dataset, column: str) -> list[str | None]:
    if column not in dataset.column_names:
        return [None] * dataset.rows
    held: Column = dataset.column(column)
    if not isinstance(held, Categories):
        raise UsageError(f"column '{column}' of dataset {dataset.name} holds numbers", hint="choose another --column")
    return held.texts()
