"""Everything that is averaged over queries, as the columns of one bootstrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate import compatibility
from featstore.evaluate.flips import negative_flips, positive_flips
from featstore.evaluate.statistics import Column, Resampled, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.measured import Measured
    from featstore.evaluate.request import EvalRequest

__all__ = ["curve_point", "flip_column", "flipping", "recalls", "resample"]


def resample(runs: Sequence[Measured], request: EvalRequest) -> Resampled:
    """One bootstrap for all cells: which queries have answers depends on labels, so it is the same in every cell."""
    names = sorted({name for run in runs for name in run.problem.class_names})
    code = {name: number for number, name in enumerate(names)}
    columns: dict[Column, None] = {}
    values = []
    for run in runs:
        valid = next(iter(run.per_query.values())).valid
        found = _columns(run, valid)
        columns = dict.fromkeys(found)
        table = np.array([code[name] for name in run.problem.class_names], np.int64)
        values.append(Run(np.stack(list(found.values()), axis=1), table[run.problem.classes[valid]]))
    return Resampled.of(list(columns), values, resamples=request.bootstrap, seed=request.seed)


def _columns(run: Measured, valid: NDArray[np.bool_]) -> dict[Column, NDArray[np.float64]]:
    """Everything that is averaged over queries: metrics of the cells, and flips between them where right is known."""
    columns = {
        Column(role, metric): found.values[metric][valid]
        for role, found in run.per_query.items()
        for metric in run.metrics
    }
    known = not run.problem.is_proxy
    for after, before in flipping(compatibility.comparisons(run.per_query)) if known else ():
        for metric in recalls(run.metrics):
            hits = columns[Column(before, metric)], columns[Column(after, metric)]
            columns[flip_column("nfr", after, metric)] = negative_flips(*hits)
            columns[flip_column("pfr", after, metric)] = positive_flips(*hits)
    today = compatibility.baseline(compatibility.subject_of(run.per_query) or "")
    for curve in run.curves:
        for step, values in enumerate(curve.points, 1):
            point = curve_point(curve.label, step)
            for metric in run.metrics:
                columns[Column(point, metric)] = values[metric][valid]
            for metric in recalls(run.metrics) if today and known else ():
                hits = columns[Column(today or "", metric)], columns[Column(point, metric)]
                columns[flip_column("nfr", point, metric)] = negative_flips(*hits)
    return columns


def curve_point(curve: str, step: int) -> str:
    """What stands for a role in the columns of a point of a backfill curve."""
    return f"backfill by {curve}, step {step}"


def recalls(metrics: Iterable[str]) -> list[str]:
    """The metrics by which queries flip."""
    return [metric for metric in metrics if metric.startswith("recall@")]


def flipping(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The comparisons that flips are counted for: those an upgrade goes through."""
    return [(after, before) for after, before in pairs if compatibility.REFERENCE not in (after, before)]


def flip_column(kind: str, role: str, metric: str) -> Column:
    """Where the flips (`nfr` or `pfr`) of a recall metric are, for the cell that they lead to."""
    return Column(role, f"{kind}@{metric.partition('@')[2]}")
