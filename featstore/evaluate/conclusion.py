"""From every query's values to what they mean: intervals, differences, verdicts, flips and chains."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate import compatibility
from featstore.evaluate.by_class import QueryChange, changes
from featstore.evaluate.chain import (
    average_compatibility,
    average_metric,
    backward_compatibility,
    forward_compatibility,
)
from featstore.evaluate.columns import curve_point, flip_column, flipping, recalls, resample
from featstore.evaluate.flips import relative_rate
from featstore.evaluate.measured import Curve, Measured
from featstore.evaluate.metrics import metric_info
from featstore.evaluate.records import (
    Backfill,
    Cell,
    Chain,
    Changes,
    Estimated,
    Flips,
    ProtocolRecord,
    RunRecord,
    Ties,
)
from featstore.evaluate.result import EvalResult, Evidence
from featstore.evaluate.scores import SCORES
from featstore.evaluate.statistics import Column, Resampled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from featstore.evaluate.request import EvalRequest

__all__ = ["conclude"]


def conclude(request: EvalRequest, runs: Sequence[Measured]) -> EvalResult:
    """Everything that follows from the values of one or several runs with the same roles and metrics."""
    first = runs[0]
    metrics, roles, headline = first.metrics, list(first.per_query), first.problem.headline
    resampled = resample(runs, request)
    cells = [_cell(runs, role, resampled) for role in roles]
    pairs = compatibility.comparisons(roles)
    proxy = first.problem.is_proxy
    subject = None if proxy else compatibility.subject_of(roles)
    criterion = {} if proxy else _criterion(resampled, pairs, metrics)
    deciding = {role: criterion[role] for role in compatibility.deciding(criterion, subject)}
    result = EvalResult(
        protocol=_protocol(request, first),
        cells=cells,
        differences={
            f"{after} - {before}": {metric: _difference(resampled, after, before, metric) for metric in metrics}
            for after, before in pairs
        },
        compatible=(
            {metric: compatibility.all_of(found[metric] for found in deciding.values()) for metric in metrics}
            if subject
            else {}
        ),
        headline=headline,
        verdict=None,
        subject=subject,
        criterion=criterion,
        chain=_chain(resampled, cells, list(request.models()), metrics),
        flips={} if proxy else _flips(resampled, pairs, metrics),
        changes=_changes(runs, subject, headline) if subject else None,
        backfill=[_curve(resampled, curve, first.metrics) for curve in first.curves],
        thresholds=first.thresholds,
        distributions=first.distributions,
        left_out=first.left_out,
        runs=[_run_record(run) for run in runs] if len(runs) > 1 else [],
        **_gains(resampled, subject, list(request.models()), metrics),
    )
    if subject:
        verdicts = {role: found[headline] for role, found in deciding.items()}
        result = result.model_copy(update={"verdict": compatibility.sentence(headline, verdicts, resampled, subject)})
    return result.with_evidence(
        Evidence(first.problem, first.per_query, resampled, first.sides, first.measure, first.plans)
    )


def _difference(resampled: Resampled, after: str, before: str, metric: str) -> Estimated:
    return Estimated.of(resampled.estimate({Column(after, metric): 1.0, Column(before, metric): -1.0}))


def _cell(runs: Sequence[Measured], role: str, resampled: Resampled) -> Cell:
    run = runs[0]
    plan, found = run.plans[role], run.per_query[role]
    values = {metric: resampled.estimate({Column(role, metric): 1.0}) for metric in run.metrics}
    ties = None
    if found.tied.any():
        ties = Ties(
            queries=int(found.tied.sum()),
            bracket={metric: span for metric in run.metrics if (span := found.bracket(metric)) is not None},
            expected_map=float(found.expected_map[found.valid].mean()),
        )
    return Cell(
        query=run.sides.features(plan.query).ref,
        gallery=run.sides.features(plan.gallery).ref,
        query_map=str(plan.query.run) if plan.query.run else None,
        gallery_map=str(plan.gallery.run) if plan.gallery.run else None,
        role=role,
        width=found.width,
        unrelated=run.unrelated[role],
        n_queries=found.n_queries,
        n_skipped=found.n_skipped,
        metrics={
            metric: float(np.mean([other.per_query[role].mean(metric) for other in runs])) for metric in run.metrics
        },
        interval={
            metric: (low, high) for metric, (_, low, high) in values.items() if low is not None and high is not None
        },
        ties=ties,
        thresholds=found.thresholds,
        warnings=found.warnings,
    )


def _criterion(
    resampled: Resampled, pairs: list[tuple[str, str]], metrics: tuple[str, ...]
) -> dict[str, dict[str, bool | None]]:
    return {
        after: {
            metric: compatibility.verdict(
                resampled.estimate({Column(after, metric): 1.0, Column(before, metric): -1.0})
            )
            for metric in metrics
        }
        for after, before in pairs
        if compatibility.baseline(after) == before
    }


def _gains(resampled: Resampled, subject: str | None, models: list[str], metrics: tuple[str, ...]) -> dict[str, Any]:
    before = compatibility.baseline(subject) if subject else None
    if subject is None or before is None:
        return {"update_gain": {}, "update_gain_reason": {}}
    newest = f"{models[-1]}/{models[-1]}"
    found = {
        metric: compatibility.gain(metric, resampled, subject=subject, before=before, after=newest)
        for metric in metrics
    }

    def score(which: str) -> dict[str, Estimated | None]:
        return {
            metric: Estimated.of(getattr(gain.scores, which)) if gain.scores else None for metric, gain in found.items()
        }

    return {
        "update_gain": {metric: gain.update_gain.value if gain.update_gain else None for metric, gain in found.items()},
        "update_gain_reason": {metric: gain.reason for metric, gain in found.items()},
        "update_gain_interval": {
            metric: (gain.update_gain.low, gain.update_gain.high) if gain.update_gain else None
            for metric, gain in found.items()
        },
        "p_up": score("p_up"),
        "p_comp": score("p_comp"),
        "p_1": score("p_1"),
    }


def _chain(resampled: Resampled, cells: list[Cell], models: list[str], metrics: tuple[str, ...]) -> Chain | None:
    """None unless every cell of the lower triangle was measured."""
    values = {cell.role: cell.metrics for cell in cells}
    size = len(models)
    places = [(row, column) for row in range(size) for column in range(row + 1)]
    triangle = [f"{models[row]}/{models[column]}" for row, column in places]
    if size < 2 or not set(triangle) <= set(values):
        return None

    def over(measure: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> dict[str, Estimated]:
        def of_cells(*cells: NDArray[np.float64]) -> NDArray[np.float64]:
            matrix = np.zeros((*np.shape(cells[0]), size, size))
            for (row, column), value in zip(places, cells, strict=True):
                matrix[..., row, column] = value
            return measure(matrix)

        return {
            metric: Estimated.of(resampled.function([Column(role, metric) for role in triangle], of_cells))
            for metric in metrics
        }

    return Chain(
        matrix={
            metric: [
                [values[f"{newer}/{older}"][metric] for older in models[: row + 1]] for row, newer in enumerate(models)
            ]
            for metric in metrics
        },
        ac=over(average_compatibility),
        ac_nonstrict=over(lambda matrix: average_compatibility(matrix, strict=False)),
        bc=over(backward_compatibility),
        fc=over(forward_compatibility),
        am=over(average_metric),
    )


def _flips(resampled: Resampled, pairs: list[tuple[str, str]], metrics: tuple[str, ...]) -> dict[str, dict[str, Flips]]:
    def of(after: str, before: str, metric: str) -> Flips:
        negative, positive = (flip_column(kind, after, metric) for kind in ("nfr", "pfr"))
        columns = [negative, Column(before, metric), Column(after, metric)]
        return Flips(
            before=before,
            nfr=Estimated.of(resampled.estimate({negative: 1.0})),
            pfr=Estimated.of(resampled.estimate({positive: 1.0})),
            churn=Estimated.of(resampled.estimate({negative: 1.0, positive: 1.0})),
            relative_nfr=Estimated.of(resampled.function(columns, relative_rate)),
        )

    return {
        after: {metric: of(after, before, metric) for metric in recalls(metrics)} for after, before in flipping(pairs)
    }


def _curve(resampled: Resampled, curve: Curve, metrics: tuple[str, ...]) -> Backfill:
    fractions = [0.0, *curve.shares, 1.0]
    roles = [curve.start, *(curve_point(curve.label, step) for step in range(1, len(curve.points) + 1)), curve.end]

    def points(metric: str) -> list[Estimated]:
        return [Estimated.of(resampled.estimate({Column(role, metric): 1.0})) for role in roles]

    def area(metric: str, weights: list[float]) -> Estimated:
        terms = zip(roles, weights, strict=True)
        return Estimated.of(resampled.estimate({Column(role, metric): weight for role, weight in terms}))

    ends = [fractions[0], *fractions, fractions[-1]]
    trapezoid = [(after - before) / 2 for before, after in zip(ends, ends[2:], strict=False)]
    curves = {metric: points(metric) for metric in metrics}
    return Backfill(
        order=curve.order,
        serving=curve.serving,
        start=curve.start,
        end=curve.end,
        fractions=fractions,
        metrics=curves,
        nfr={
            metric: [Estimated.of(resampled.estimate({flip_column("nfr", role, metric): 1.0})) for role in roles]
            for metric in recalls(metrics)
            if all(resampled.has(flip_column("nfr", role, metric)) for role in roles)
        },
        area_trapezoid={metric: area(metric, trapezoid) for metric in metrics},
        area_mean={metric: area(metric, [1 / len(roles)] * len(roles)) for metric in metrics},
        falls={
            metric: sum(after.value < before.value for before, after in pairwise(values))
            for metric, values in curves.items()
        },
    )


def _changes(runs: Sequence[Measured], subject: str, metric: str) -> Changes:
    before = compatibility.baseline(subject) or ""
    found = []
    for run in runs:
        valid = run.per_query[subject].valid
        old, new = (run.per_query[role].values[metric][valid] for role in (before, subject))
        found.append(QueryChange(old, new, run.problem.classes[valid], run.problem.class_names))
    return changes(found)


def _run_record(run: Measured) -> RunRecord:
    return RunRecord(
        sets={
            role: (run.sides.features(plan.query).ref, run.sides.features(plan.gallery).ref)
            for role, plan in run.plans.items()
        },
        metrics={role: {metric: found.mean(metric) for metric in run.metrics} for role, found in run.per_query.items()},
    )


def _protocol(request: EvalRequest, run: Measured) -> ProtocolRecord:
    problem = run.problem
    valid = next(iter(run.per_query.values())).valid
    return ProtocolRecord(
        kind=problem.kind,
        score=f"{request.score}: {SCORES[request.score]}",
        normalisation="L2, float32, on read" if request.score == "cosine" else "none; rows are compared as stored",
        skipped=(
            "queries without a right answer count as 0"
            if problem.unanswered_are_zero
            else "queries without a right answer are left out of means"
        ),
        distractors=request.distractors,
        widths=request.widths,
        is_proxy=problem.is_proxy,
        notes=problem.notes,
        conventions={metric: metric_info(metric)[0].convention for metric in run.metrics},
        query_where=(*request.where, *request.query_where),
        gallery_where=(*request.where, *request.gallery_where),
        queries=problem.query_counts,
        gallery=problem.gallery_counts,
        in_gallery=int((problem.self_rows >= 0).sum()),
        classes=len(np.unique(problem.classes[valid])),
        bootstrap=request.bootstrap,
        seed=request.seed,
    )
