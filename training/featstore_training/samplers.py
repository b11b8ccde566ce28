"""Which rows make up the batches of an epoch.

N rows, C classes, P classes of a batch, K rows of each of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError

__all__ = ["SamplerName", "check_sampler", "epoch_batches"]

SamplerName = Literal["shuffle", "balanced", "pk"]


def epoch_batches(
    labels: NDArray[np.int64], batch: int, sampler: SamplerName, per_class: int, draw: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Positions of the rows of each batch; ⌈N / batch⌉ batches, none larger than `batch`.

    `shuffle` takes every row once, in batches of equal size (± 1). `balanced` takes every class equally often (± 1), N rows
    in all. `pk` takes `per_class` rows of each of P = batch / per_class random classes. Both go through the rows of a class
    in random order and begin again when they have seen them all.

    Args:
        labels: Class codes 0 … C−1, each of them there, int64 [N].
        batch: Rows of a step.
        sampler: How they are drawn.
        per_class: K, for `pk`.
        draw: Source of the draws.
    """
    steps = -(-len(labels) // batch)
    if sampler == "shuffle":
        return np.array_split(draw.permutation(len(labels)), steps)
    classes = int(labels.max()) + 1
    if sampler == "balanced":
        chosen = np.resize(draw.permutation(classes), len(labels))
        return np.array_split(draw.permutation(_rows_of(labels, chosen, draw)), steps)
    together = batch // per_class
    chosen = np.concatenate([draw.permutation(classes)[:together] for _ in range(steps)])
    return np.split(_rows_of(labels, np.repeat(chosen, per_class), draw), steps)


def check_sampler(sampler: SamplerName, batch: int, per_class: int, classes: int) -> None:
    """Raise UsageError if batches of so many rows and classes cannot be made."""
    if sampler != "pk":
        return
    if batch % per_class or batch // per_class < 2:
        raise UsageError(
            f"a batch of {batch} rows does not hold {per_class} rows of each of two or more classes",
            hint=f"--set batch={per_class * max(2, batch // per_class)}, or another --set per_class=…",
        )
    if batch // per_class > classes:
        raise UsageError(
            f"a batch of {batch} rows, {per_class} of a class, needs {batch // per_class} classes; there are {classes}",
            hint=f"--set batch={per_class * classes}, or a larger --set per_class=…",
        )


def _rows_of(labels: NDArray[np.int64], wanted: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
    """A row of each wanted class, in the order wanted: the n-th time a class is wanted it gives its n-th row."""
    order = np.argsort(labels, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    times = np.bincount(wanted, minlength=len(members))
    rows = np.empty(len(wanted), dtype=np.int64)
    places = np.split(np.argsort(wanted, kind="stable"), np.cumsum(times)[:-1])
    for there, of_class in zip(places, members, strict=True):
        rounds = -(-len(there) // len(of_class))
        drawn = [draw.permutation(of_class) for _ in range(rounds)]
        rows[there] = np.concatenate(drawn)[: len(there)] if rounds else []
    return rows
