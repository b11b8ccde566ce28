"""Which rows a plan learns maps on and which it measures: never the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.store import FeatureSet, common_rows
from featstore.whole_files import write_whole

__all__ = ["PlanRows", "choose_plan_rows"]

_FEWEST = 8
_FEWEST_CLASSES = 4


@dataclass(frozen=True, slots=True)
class PlanRows:
    """Rows of a plan.

    Attributes:
        fitted: Dataset rows that maps are learned on.
        fit_where: The same as a filter.
        where: Filters of the rows that are measured.
        note: How they were parted.
    """

    fitted: NDArray[np.int64]
    fit_where: tuple[str, ...]
    where: tuple[str, ...]
    note: str


def choose_plan_rows(
    sets: list[FeatureSet],
    folder: Path,
    *,
    train_where: tuple[str, ...],
    where: tuple[str, ...],
    query_where: tuple[str, ...],
    gallery_where: tuple[str, ...],
) -> PlanRows:
    """Part the rows, and write the ids of both parts into the plan's folder.

    Rows to learn on are those that `train_where` picks, else those that no filter of the measured rows picks, else those of
    every other class. Rows that are measured are left out of them in any case.

    Raises:
        UsageError: there are no labels, or too few rows are left to learn on.
    """
    dataset = sets[0].dataset
    usable = common_rows(sets)
    codes = dataset.labels.codes
    if not (codes[usable] >= 0).any():
        raise UsageError(
            f"the rows of {dataset.name} have no labels, so that nothing says which answers are right",
            hint=f"featstore dataset add-columns {dataset.name} FILE with a column label",
        )
    if train_where or where or query_where or gallery_where:
        measured = np.union1d(dataset.select((*where, *query_where)), dataset.select((*where, *gallery_where)))
        picked = dataset.select(train_where) if train_where else usable
        fitted = np.setdiff1d(np.intersect1d(picked, usable), measured)
        note = "maps are learned on rows that are not measured"
    else:
        classes = np.unique(codes[usable][codes[usable] >= 0])
        if len(classes) < _FEWEST_CLASSES:
            raise UsageError(
                f"{len(classes)} classes cannot be parted", hint="say what to measure: --where, --train-where"
            )
        half = np.random.default_rng(0).permutation(classes)[: len(classes) // 2]
        fitted = usable[np.isin(codes[usable], half)]
        measured = np.setdiff1d(usable, fitted)
        _write(folder / "measured.txt", dataset.ids.take(measured))
        where = (f"id=@{folder / 'measured.txt'}",)
        note = "maps are learned on half of the classes and measured on the other half"
    if len(fitted) < _FEWEST:
        raise UsageError(
            f"{len(fitted)} rows are left to learn maps on",
            hint="measure fewer rows, such as --where split=test; the others are learned on",
        )
    _write(folder / "fitted.txt", dataset.ids.take(fitted))
    return PlanRows(fitted, (f"id=@{folder / 'fitted.txt'}",), where, note)


def _write(path: Path, ids: list[str]) -> None:
    write_whole(path, "".join(f"{text}\n" for text in ids).encode())
