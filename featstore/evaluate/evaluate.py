"""From feature sets in a store to cells, intervals and a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import NotFoundError, UsageError
from featstore.evaluate import compatibility
from featstore.evaluate.backfill import inner_points, two_index_points
from featstore.evaluate.cells import Side, Sides
from featstore.evaluate.conclusion import conclude
from featstore.evaluate.measure import CellMeasure
from featstore.evaluate.measured import Curve, Measured, curve_ends, two_index_ends
from featstore.evaluate.orders import row_orders
from featstore.evaluate.pair_scores import PairScores
from featstore.evaluate.protocols import Selection, build_problem
from featstore.evaluate.thresholds import distributions, transfer
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from featstore.evaluate.cells import CellPlan
    from featstore.evaluate.request import EvalRequest
    from featstore.evaluate.result import EvalResult
    from featstore.store import Store

__all__ = ["evaluate", "evaluate_runs"]

_NOT_PLAIN = "curves are drawn for rankings of rows, without distractors and without missing answers"


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
        NotFoundError: A set or a run folder that is not there.
        AlignmentError: Sets of different widths are to be compared, or the roles belong to different datasets.
        SpaceMismatchError: Sets of undeclared spaces are to be compared and `allow_unrelated` is off.
        NonFiniteError: A row has no direction.
    """
    return evaluate_runs(store, [request], progress)


def evaluate_runs(store: Store, requests: Sequence[EvalRequest], progress: Progress = SILENT) -> EvalResult:
    """Evaluate several runs (seeds) of one experiment together: intervals cover runs as well as classes and queries.

    Args:
        store: Where the sets are.
        requests: One for each run; they differ in their sets only.
        progress: Told of every cell.

    Returns:
        Means over the runs, with every run's own numbers in `runs`.

    Raises:
        UsageError: The runs do not have the same roles and metrics; and as `evaluate`.
    """
    measured = [_measure(store, request, progress) for request in requests]
    shapes = {(tuple(run.per_query), run.metrics) for run in measured}
    if len(shapes) != 1:
        raise UsageError(
            "runs that are evaluated together need the same roles and metrics", hint="give the same options for each"
        )
    return conclude(requests[0], measured)


def _measure(store: Store, request: EvalRequest, progress: Progress) -> Measured:
    sides = Sides(store, request.cells())
    unrelated, left_out = sides.comparable_cells(
        request.cells(), allow_unrelated=request.allow_unrelated, any_width=request.widths != "refuse"
    )
    plans = [plan for plan in request.cells() if plan.role in unrelated]
    models = list(request.models().values())
    problem = build_problem(
        request.protocol,
        Selection(
            [features for side in dict.fromkeys(plan.query for plan in plans) for features in sides.read(side)],
            [features for side in dict.fromkeys(plan.gallery for plan in plans) for features in sides.read(side)],
            where=request.where,
            query_where=request.query_where,
            gallery_where=request.gallery_where,
            ground_truth=request.ground_truth,
            newest=sides.features(Side(models[-1])) if len(models) > 1 else None,
            score=request.score,
        ),
    )
    metrics = tuple(dict.fromkeys((problem.headline, *(request.metrics or problem.metrics), *request.further_metrics)))
    measure = CellMeasure(store, request, sides, problem, metrics, progress)
    per_query = {plan.role: measure(plan) for plan in plans}
    by_role = {plan.role: plan for plan in plans}
    run = Measured(sides, measure, by_role, unrelated, left_out, problem, metrics, per_query)
    if request.backfill:
        _backfill(run, store, request, measure, progress)
    if request.fpr or request.thresholds:
        _thresholds(run, request, measure, progress)
    return run


def _thresholds(run: Measured, request: EvalRequest, measure: CellMeasure, progress: Progress) -> None:
    """Distributions of pair scores in the cells that a threshold goes through, and the thresholds."""
    roles = compatibility.threshold_roles(run.plans)
    cells = {}
    for role in roles:
        query, gallery, relevance = measure.sides_of(run.plans[role])
        cells[role] = PairScores(
            query,
            gallery,
            relevance,
            kind=request.score,
            blocking=measure.blocking(gallery),
            progress=progress,
            task=role,
        )
    run.thresholds.extend(transfer(cells, rates=request.fpr, thresholds=request.thresholds))
    if request.score == "cosine":  # other scores have no range that bins could divide
        run.distributions.update(distributions(cells))


def _backfill(run: Measured, store: Store, request: EvalRequest, measure: CellMeasure, progress: Progress) -> None:
    """Measure the curves from the subject to the newest model on its own gallery, or say why there are none."""
    start, end = curve_ends(run.plans)
    if request.two_index:
        _two_index_curves(run, store, request, measure, progress)
    if start is None or end is None:
        run.left_out["backfill"] = (
            "there is no cell of the newest model on its own gallery, or none of it on an older one that holds comparable "
            "rows; of mapped queries, store the mapped set with `featstore apply` and evaluate that"
        )
        return
    if not measure.is_plain:
        run.left_out["backfill"] = _NOT_PLAIN
        return
    problem = run.problem
    query = run.sides.vectors(start.query, problem.query_rows)
    old, new = (run.sides.vectors(plan.gallery, problem.gallery_rows) for plan in (start, end))
    for order, permutations in _orders(run, store, start, request).items():
        points = inner_points(
            query,
            old,
            new,
            problem.relevance,
            run.metrics,
            orders=permutations,
            shares=request.inner_shares,
            kind=request.score,
            blocking=measure.blocking(old),
            progress=progress,
            task=f"backfill by {order}",
        )
        run.curves.append(Curve(order, "one index", start.role, end.role, request.inner_shares, points))


def _two_index_curves(
    run: Measured, store: Store, request: EvalRequest, measure: CellMeasure, progress: Progress
) -> None:
    """Measure the curves of two indexes, from the old model on its gallery to the newest on its own."""
    start, end = two_index_ends(run.plans)
    if start is None or end is None or request.score != "cosine":
        run.left_out["two indexes"] = "two indexes are merged by cosine distance, of an old and a new model"
        return
    if not measure.is_plain:
        run.left_out["two indexes"] = _NOT_PLAIN
        return
    problem = run.problem
    queries = tuple(run.sides.vectors(plan.query, problem.query_rows) for plan in (start, end))
    old, new = (run.sides.vectors(plan.gallery, problem.gallery_rows) for plan in (start, end))
    for order, permutations in _orders(run, store, start, request).items():
        points = two_index_points(
            (queries[0], queries[1]),
            (old, new),
            problem.relevance,
            run.metrics,
            orders=permutations,
            shares=request.inner_shares,
            blocking=measure.blocking(old),
            progress=progress,
            task=f"backfill by {order}, two indexes",
        )
        run.curves.append(Curve(order, "two indexes", start.role, end.role, request.inner_shares, points))


def _orders(run: Measured, store: Store, start: CellPlan, request: EvalRequest) -> dict[str, list[NDArray[np.int64]]]:
    """Orders of the gallery as it is before the backfill, by name."""
    rows = run.problem.gallery_rows
    features, vectors = run.sides.features(start.gallery), run.sides.vectors(start.gallery, rows)

    def uncertainty() -> NDArray[np.floating]:
        from featstore.evaluate.mapped import MappedVectors  # torch, only when it is asked for
        from featstore.maps import load_map, uncertainty_run, uncertainty_set

        if start.gallery.run is None:
            return uncertainty_set(store, features.name).gather(rows)[:, 0]
        if (folder := uncertainty_run(start.gallery.run)) is None:
            raise NotFoundError(
                f"the map {start.gallery.run} knows no uncertainty",
                hint="`featstore train --loss fastfill …` learns one",
            )
        return MappedVectors(vectors, load_map(folder).module).read(0, vectors.rows)[:, 0]

    return {
        order: row_orders(order, features.dataset, rows, vectors, uncertainty, seed=request.seed)
        for order in request.backfill
    }
