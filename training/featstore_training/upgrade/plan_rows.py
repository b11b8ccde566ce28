"""Which rows a plan learns maps on and which it measures: never the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.report.plan import Basis
from featstore.store import Dataset, FeatureSet, common_rows
from featstore.whole_files import write_whole

__all__ = ["PlanRows", "choose_plan_rows"]

_FEWEST = 8
_FEWEST_CLASSES = 4
_QUERIES = 2000  # enough for intervals of a point or two; the other rows are gallery all the same


@dataclass(frozen=True, slots=True)
class PlanRows:
    """Rows of a plan.

    Attributes:
        fitted: Dataset rows that maps are learned on.
        fit_where: The same as a filter.
        where: Filters of the rows that are measured.
        query_where: Further filters of the queries.
        judged_by: What says which answers are right: classes of the measured rows, or where they have none the new model.
        classes_to_learn: Whether rows to learn on have classes.
        note: How they were parted.
    """

    fitted: NDArray[np.int64]
    fit_where: tuple[str, ...]
    where: tuple[str, ...]
    query_where: tuple[str, ...]
    judged_by: Basis
    classes_to_learn: bool
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
    every other class, or without labels half of all. Rows that are measured are left out of them in any case.

    Raises:
        UsageError: too few classes to part, or too few rows are left to learn on.
    """
    dataset = sets[0].dataset
    usable = common_rows(sets)
    codes = dataset.labels.codes
    if train_where or where or query_where or gallery_where:
        measured = np.union1d(dataset.select((*where, *query_where)), dataset.select((*where, *gallery_where)))
        picked = dataset.select(train_where) if train_where else usable
        fitted = np.setdiff1d(np.intersect1d(picked, usable), measured)
        note = "maps are learned on rows that are not measured"
    elif not (codes[usable] >= 0).any():
        draw = np.random.default_rng(0).permutation(usable)
        fitted, measured = np.sort(draw[: len(usable) // 2]), np.sort(draw[len(usable) // 2 :])
        where = _only(dataset, measured, folder / "measured.txt")
        query_where = _only(dataset, np.sort(draw[len(usable) // 2 :][:_QUERIES]), folder / "queries.txt")
        note = "there are no labels: maps are learned on a random half of the rows and measured on the other"
    else:
        classes = np.unique(codes[usable][codes[usable] >= 0])
        if len(classes) < _FEWEST_CLASSES:
            raise UsageError(
                f"{len(classes)} classes cannot be parted", hint="say what to measure: --where, --train-where"
            )
        half = np.random.default_rng(0).permutation(classes)[: len(classes) // 2]
        fitted = usable[np.isin(codes[usable], half)]
        measured = np.setdiff1d(usable, fitted)
        where = _only(dataset, measured, folder / "measured.txt")
        note = "maps are learned on half of the classes and measured on the other half"
    if len(fitted) < _FEWEST:
        raise UsageError(
            f"{len(fitted)} rows are left to learn maps on",
            hint="measure fewer rows, such as --where split=test; the others are learned on",
        )
    return PlanRows(
        fitted=fitted,
        fit_where=_only(dataset, fitted, folder / "fitted.txt"),
        where=where,
        query_where=query_where,
        judged_by="labels" if (codes[np.intersect1d(measured, usable)] >= 0).any() else "agreement",
        classes_to_learn=bool((codes[fitted] >= 0).any()),
        note=note,
    )


def _only(dataset: Dataset, rows: NDArray[np.int64], path: Path) -> tuple[str, ...]:
    """The filter that picks these rows, by a list of their ids."""
    write_whole(path, "".join(f"{text}\n" for text in dataset.ids.take(rows)).encode())
    return (f"id=@{path}",)
