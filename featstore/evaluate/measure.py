"""Measuring one cell: the vectors of a plan, through the protocol's kind of measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featstore.errors import UsageError
from featstore.evaluate.arrays import PerQuery, evaluate_vectors
from featstore.evaluate.blocking import Blocking
from featstore.evaluate.cell_cache import cell_key, load_cell, save_cell
from featstore.evaluate.identification import identify
from featstore.evaluate.metrics import metric_info
from featstore.evaluate.relevance import WithDistractors, digest_of
from featstore.evaluate.templates import PooledVectors
from featstore.evaluate.vectors import Concatenated, Resized, SetVectors
from featstore.evaluate.verification import verify_pairs
from featstore.spaces import require_same
from featstore.store import common_rows, parse_set

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featstore.evaluate.cells import CellPlan, Side, Sides
    from featstore.evaluate.protocols import Problem
    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.request import EvalRequest
    from featstore.evaluate.templates import Templates
    from featstore.evaluate.vectors import Vectors
    from featstore.progress import Progress
    from featstore.store import FeatureSet, Store

__all__ = ["CellMeasure"]


class CellMeasure:
    """Measures the cells of a request, all by the same problem and metrics.

    Args:
        store: Where distractors are.
        request: What to evaluate, and how.
        sides: The sets and maps.
        problem: Rows and ground truth.
        metrics: Names from the metric registry.
        progress: Told of every cell.

    Attributes:
        kind: What scores.

    Raises:
        UsageError: A metric of another kind of measurement than the protocol's.
    """

    def __init__(
        self,
        store: Store,
        request: EvalRequest,
        sides: Sides,
        problem: Problem,
        metrics: tuple[str, ...],
        progress: Progress,
    ) -> None:
        for name in metrics:
            if metric_info(name)[0].measure != problem.measure:
                raise UsageError(
                    f"'{name}' is no metric of the protocol {problem.kind}",
                    hint=f"it reports {', '.join(problem.metrics)}; `featstore metrics` lists what each is measured on",
                )
        self.kind = request.score
        self._store = store
        self._request = request
        self._sides = sides
        self._problem = problem
        self._metrics = metrics
        self._progress = progress

    @property
    def ranks_rows(self) -> bool:
        """Whether cells are rankings of single rows."""
        problem = self._problem
        return problem.measure == "ranking" and problem.query_templates is None and problem.gallery_templates is None

    @property
    def is_plain(self) -> bool:
        """Whether cells are rankings of the problem's rows and of nothing else."""
        problem = self._problem
        zeros = problem.unanswered_are_zero or problem.missing is not None
        return self.ranks_rows and not (zeros or self._request.distractors)

    def __call__(self, plan: CellPlan) -> PerQuery:
        """Every query's values in a cell, from the cache where the same cell was measured before."""
        query, gallery, relevance = self.sides_of(plan)
        key = cell_key(self._inputs(plan, relevance))
        found = load_cell(key) if self._request.cache else None
        if found is None:
            found = self.measured(query, gallery, relevance, plan.role)
            if self._request.cache:
                save_cell(key, found, self._progress)
        else:
            self._progress.note(f"{plan.role} was measured before, its values were kept")
        return found.with_zeros(self._problem.absent) if self._problem.unanswered_are_zero else found

    def _inputs(self, plan: CellPlan, relevance: Relevance) -> dict[str, Any]:
        """Everything that the values of a cell depend on."""
        problem, request = self._problem, self._request
        inputs: dict[str, Any] = {
            "metrics": self._metrics,
            "measure": problem.measure,
            "score": request.score,
            "widths": request.widths,
            "relevance": relevance.digest().hex(),
            "missing": None if problem.missing is None else digest_of(problem.missing).hex(),
        }
        if request.distractors is not None:
            inputs["distractors"] = [found.record.uuid for _, found in sorted(self._distractor_sets().items())]
        sides = (
            ("query", plan.query, problem.query_rows, problem.query_templates),
            ("gallery", plan.gallery, problem.gallery_rows, problem.gallery_templates),
        )
        for name, side, rows, templates in sides:
            # the space says which map the rows go through
            read = [features.record.uuid for features in self._sides.read(side)]
            inputs[name] = [*read, self._sides.space(side).digest]
            inputs[f"{name} rows"] = (digest_of(rows) if templates is None else templates.digest()).hex()
        return inputs

    def sides_of(self, plan: CellPlan) -> tuple[Vectors, Vectors, Relevance]:
        """The queries and the gallery of a cell at one width, distractors included, and the ground truth between them."""
        problem = self._problem
        query = self._vectors(plan.query, problem.query_rows, problem.query_templates)
        gallery = self._vectors(plan.gallery, problem.gallery_rows, problem.gallery_templates)
        relevance: Relevance = problem.relevance
        if self._request.distractors is not None:
            extra = self._distractors(plan)
            gallery = Concatenated([gallery, extra])
            relevance = WithDistractors(relevance, extra.rows)
        return *self._same_width(query, gallery), relevance

    def measured(self, query: Vectors, gallery: Vectors, relevance: Relevance, task: str) -> PerQuery:
        """Every query's values of some vectors, by the protocol's kind of measurement."""
        blocking = self.blocking(gallery)
        request, problem, metrics, progress = self._request, self._problem, self._metrics, self._progress
        if problem.measure != "ranking":
            by_measure = verify_pairs if problem.measure == "verification" else identify
            return by_measure(
                query, gallery, relevance, metrics, kind=request.score, blocking=blocking, progress=progress, task=task
            )
        return evaluate_vectors(
            query,
            gallery,
            relevance,
            metrics,
            kind=request.score,
            missing=problem.missing,
            blocking=blocking,
            progress=progress,
            task=task,
        )

    def blocking(self, gallery: Vectors) -> Blocking:
        """How the work on a gallery is cut to stay within the request's memory."""
        request = self._request
        return Blocking.within(
            request.max_memory,
            rows=gallery.rows,
            width=gallery.width,
            workers=request.workers,
            engine=request.engine,
        )

    def _vectors(self, side: Side, rows: NDArray[np.int64], templates: Templates | None) -> Vectors:
        if templates is None:
            return self._sides.vectors(side, rows)
        return PooledVectors(self._sides.vectors(side, templates.order), templates)

    def _distractors(self, plan: CellPlan) -> Vectors:
        """The rows of the distractor dataset's set of the same name as the gallery's, in the same space."""
        if plan.gallery.run is not None:
            raise UsageError(
                "--distractors does not go with a map of the gallery", hint="store the mapped sets instead"
            )
        sets = self._distractor_sets()
        own = self._sides.features(plan.gallery)
        found = sets[parse_set(plan.gallery.set).name]
        require_same(
            own.space,
            found.space,
            what=f"{found.name} as distractors of {own.name}",
            hint="encode the distractors with the same model",
        )
        return SetVectors(found, common_rows(list(sets.values())))

    def _distractor_sets(self) -> dict[str, FeatureSet]:
        """The distractor dataset's sets by name, one for each gallery."""
        names = {parse_set(cell.gallery.set).name for cell in self._request.cells()}
        return {name: self._store.features(f"{self._request.distractors}/{name}") for name in names}

    def _same_width(self, query: Vectors, gallery: Vectors) -> tuple[Vectors, Vectors]:
        policy = self._request.widths
        if query.width == gallery.width or policy == "refuse":
            return query, gallery
        width = min(query.width, gallery.width) if policy == "truncate" else max(query.width, gallery.width)
        return Resized(query, width), Resized(gallery, width)
