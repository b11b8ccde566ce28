"""From feature sets in a store to cells, intervals and a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import AlignmentError
from featstore.evaluate import compatibility
from featstore.evaluate.arrays import PerQuery, evaluate_vectors
from featstore.evaluate.metrics import metric_info
from featstore.evaluate.protocols import Problem, retrieval_problem
from featstore.evaluate.result import Cell, Difference, EvalResult, Evidence, ProtocolRecord, Ties
from featstore.evaluate.statistics import Column, Resampled, Run
from featstore.evaluate.vectors import SetVectors
from featstore.progress import SILENT, Progress
from featstore.spaces import check_comparable, comparable

if TYPE_CHECKING:
    from featstore.evaluate.request import CellPlan, EvalRequest
    from featstore.store import FeatureSet, Store

__all__ = ["evaluate"]


def evaluate(store: Store, request: EvalRequest, progress: Progress = SILENT) -> EvalResult:
    """Evaluate the cells of a request. Everything that can be refused is refused before anything is computed.

    Args:
        store: Where the sets are.
        request: What to evaluate.
        progress: Told of every cell.

    Returns:
        Cells in the request's order; with old and new also paired differences and the verdict.

    Raises:
        UsageError: The request asks for nothing, mixes forms, or leaves nothing to measure.
        UnknownNameError: A metric, column, or cell nobody knows.
        NotFoundError: A set that is not in the store.
        AlignmentError: Sets of different widths are to be compared, or the roles belong to different datasets.
        SpaceMismatchError: Sets of undeclared spaces are to be compared and `allow_unrelated` is off.
        NonFiniteError: A row has no direction.
    """
    plans = request.cells()
    sets = {ref: store.features(ref) for plan in plans for ref in (plan.query, plan.gallery)}
    unrelated = {plan.role: _is_unrelated(plan, sets, allowed=request.allow_unrelated) for plan in plans}
    problem = retrieval_problem(
        [sets[ref] for ref in dict.fromkeys(plan.query for plan in plans)],
        [sets[ref] for ref in dict.fromkeys(plan.gallery for plan in plans)],
        where=request.where,
        query_where=request.query_where,
        gallery_where=request.gallery_where,
    )
    metrics = tuple(dict.fromkeys((problem.headline, *request.metrics)))
    per_query = {
        plan.role: evaluate_vectors(
            SetVectors(sets[plan.query], problem.query_rows),
            SetVectors(sets[plan.gallery], problem.gallery_rows),
            problem.relevance,
            metrics,
            progress=progress,
            task=plan.role,
        )
        for plan in plans
    }
    resampled = _resample(problem, per_query, metrics, request)
    cells = [
        _cell(plan, sets, per_query[plan.role], resampled, metrics, unrelated=unrelated[plan.role]) for plan in plans
    ]
    result = _concluded(cells, resampled, metrics, problem, _protocol(request, problem, per_query, metrics))
    return result.with_evidence(Evidence(problem, per_query, resampled))


def _is_unrelated(plan: CellPlan, sets: dict[str, FeatureSet], *, allowed: bool) -> bool:
    """Whether the sets of a cell lie in spaces that nothing declares comparable; refuses what cannot be compared."""
    query, gallery = sets[plan.query], sets[plan.gallery]
    bridge = (
        f"bridge them: featstore train --loss odpp --old {gallery.name} --new {query.name} --out RUN; "
        f"featstore apply RUN {query.name} --as {query.dataset.name}/MAPPED; then evaluate {query.dataset.name}/MAPPED "
        f"in place of {query.name}"
    )
    if query.width != gallery.width:
        raise AlignmentError(
            f"{query.name} has width {query.width} and {gallery.name} width {gallery.width}: "
            f"vectors of different widths cannot be compared ({plan.role})",
            hint=bridge,
        )
    if comparable(query.space, gallery.space):
        return False
    if not allowed:
        check_comparable(
            query.space,
            gallery.space,
            left_set=query.name,
            right_set=gallery.name,
            hint=f"{bridge}; or compare them as they are with --allow-unrelated, which marks the cell",
        )
    return True


def _resample(
    problem: Problem, per_query: dict[str, PerQuery], metrics: tuple[str, ...], request: EvalRequest
) -> Resampled:
    """One bootstrap for all cells: which queries have answers depends on labels, so it is the same in every cell."""
    valid = next(iter(per_query.values())).valid
    columns = [Column(role, metric) for role in per_query for metric in metrics]
    values = np.stack([per_query[column.role].values[column.metric][valid] for column in columns], axis=1)
    run = Run(values, problem.classes[valid])
    return Resampled.of(columns, [run], resamples=request.bootstrap, seed=request.seed)


def _cell(
    plan: CellPlan,
    sets: dict[str, FeatureSet],
    found: PerQuery,
    resampled: Resampled,
    metrics: tuple[str, ...],
    *,
    unrelated: bool,
) -> Cell:
    interval = {}
    for metric in metrics:
        _, low, high = resampled.estimate({Column(plan.role, metric): 1.0})
        if low is not None and high is not None:
            interval[metric] = (low, high)
    ties = None
    if found.tied.any():
        ties = Ties(
            queries=int(found.tied.sum()),
            bracket={metric: found.bracket(metric) for metric in metrics},
            expected_map=float(found.expected_map[found.valid].mean()),
        )
    return Cell(
        query=sets[plan.query].ref,
        gallery=sets[plan.gallery].ref,
        role=plan.role,
        width=sets[plan.query].width,
        unrelated=unrelated,
        n_queries=found.n_queries,
        n_skipped=found.n_skipped,
        metrics={metric: found.mean(metric) for metric in metrics},
        interval=interval,
        ties=ties,
    )


def _protocol(
    request: EvalRequest, problem: Problem, per_query: dict[str, PerQuery], metrics: tuple[str, ...]
) -> ProtocolRecord:
    valid = next(iter(per_query.values())).valid
    return ProtocolRecord(
        kind=problem.kind,
        conventions={metric: metric_info(metric)[0].convention for metric in metrics},
        query_where=(*request.where, *request.query_where),
        gallery_where=(*request.where, *request.gallery_where),
        queries=problem.query_counts,
        gallery=problem.gallery_counts,
        in_gallery=int((problem.self_rows >= 0).sum()),
        classes=len(np.unique(problem.classes[valid])),
        bootstrap=request.bootstrap,
        seed=request.seed,
    )


def _concluded(
    cells: list[Cell], resampled: Resampled, metrics: tuple[str, ...], problem: Problem, protocol: ProtocolRecord
) -> EvalResult:
    """Differences, verdicts and gains, as far as the roles allow."""
    estimates = compatibility.differences(resampled, {cell.role for cell in cells}, metrics)
    cross = estimates.get("new/old - old/old", {})
    reference = estimates.get("reference - old/old", {})
    gains = {metric: compatibility.update_gain(estimate, reference.get(metric)) for metric, estimate in cross.items()}
    return EvalResult(
        protocol=protocol,
        cells=cells,
        differences={
            name: {metric: Difference.of(estimate) for metric, estimate in by_metric.items()}
            for name, by_metric in estimates.items()
        },
        compatible={metric: compatibility.verdict(estimate) for metric, estimate in cross.items()},
        update_gain={metric: gain.value for metric, gain in gains.items()},
        update_gain_reason={metric: gain.reason for metric, gain in gains.items()},
        headline=problem.headline,
        verdict=compatibility.sentence(problem.headline, resampled, cross[problem.headline]) if cross else None,
    )
