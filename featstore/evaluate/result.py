"""What an evaluation found: the numbers as JSON, the values behind them in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, PrivateAttr

from featstore.errors import UnknownNameError, UsageError
from featstore.evaluate.gate import GateResult, judge, parse_gate
from featstore.evaluate.protocols.problem import SideCounts
from featstore.evaluate.statistics import Estimate

if TYPE_CHECKING:
    from featstore.evaluate.arrays import PerQuery
    from featstore.evaluate.protocols import Problem
    from featstore.evaluate.statistics import Resampled

__all__ = ["Cell", "Difference", "EvalResult", "Evidence", "ProtocolRecord", "Ties"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ties(_Record):
    """What equal scores leave open. Metrics rank tied rows in gallery row order.

    Attributes:
        queries: Queries in which a right answer ties with a wrong one.
        bracket: The least and the greatest value that an order of ties can give, by metric.
        expected_map: Mean average precision expected under a random order.
    """

    queries: int
    bracket: dict[str, tuple[float, float]]
    expected_map: float


class Cell(_Record):
    """One cell of the evaluation.

    Attributes:
        query: The set the queries come from, with its version.
        gallery: The set the gallery comes from, with its version.
        role: What the cell is in an upgrade.
        width: Components compared.
        unrelated: Nothing declares the two spaces comparable, and the caller wanted the cell all the same.
        n_queries: Queries that count.
        n_skipped: Queries without a right answer in the gallery.
        metrics: Means over the queries that count, fractions in [0, 1].
        interval: 95 % percentile intervals of the bootstrap; empty without one.
        ties: None when no right answer ties with a wrong one.
    """

    query: str
    gallery: str
    role: str
    width: int
    unrelated: bool
    n_queries: int
    n_skipped: int
    metrics: dict[str, float]
    interval: dict[str, tuple[float, float]]
    ties: Ties | None


class Difference(_Record):
    """A paired difference of two cells, with its 95 % percentile interval (None without a bootstrap)."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, estimate: Estimate) -> Difference:
        """The same numbers as a record."""
        return cls(value=estimate.value, low=estimate.low, high=estimate.high)


class ProtocolRecord(_Record):
    """How the numbers came about.

    Attributes:
        kind: `leave-one-out` or `query/gallery`.
        score: What ranks.
        normalisation: What is done to features when they are read.
        ties: The order of equal scores.
        skipped: What happens to queries without a right answer.
        conventions: The formula of each metric.
        query_where: Filters of the queries.
        gallery_where: Filters of the gallery.
        queries: What became of the query rows.
        gallery: What became of the gallery rows.
        in_gallery: Queries that are in the gallery themselves and are left out of their own ranking.
        classes: Classes among the queries that count: the units of resampling.
        bootstrap: Resamples.
        seed: Of the resampling.
    """

    kind: str
    score: str = "cosine: float64 dot product of float32 unit rows"
    normalisation: str = "L2, float32, on read"
    ties: str = "score descending, then gallery row ascending"
    skipped: str = "queries without a right answer are left out of means"
    conventions: dict[str, str]
    query_where: tuple[str, ...]
    gallery_where: tuple[str, ...]
    queries: SideCounts
    gallery: SideCounts
    in_gallery: int
    classes: int
    bootstrap: int
    seed: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a result's numbers were computed from; in memory only.

    Attributes:
        problem: Rows, classes and ground truth.
        per_query: Every query's values, by role.
        resampled: Means over resamples, for gates and further differences.
    """

    problem: Problem
    per_query: dict[str, PerQuery]
    resampled: Resampled


class EvalResult(_Record):
    """Everything an evaluation found. The JSON holds all but `evidence`.

    Attributes:
        protocol: How the numbers came about.
        cells: One for each pair of sets, in the order of the request.
        differences: Paired differences, {"new/old - old/old": {metric: difference}, …}.
        compatible: By metric: True, False, or None for undecided. Empty unless old and new were compared.
        update_gain: By metric; None where it means nothing. Empty unless old and new were compared.
        update_gain_reason: Why there is none, by metric.
        headline: The metric that the verdict is about.
        verdict: One sentence; None unless old and new were compared.
    """

    protocol: ProtocolRecord
    cells: list[Cell]
    differences: dict[str, dict[str, Difference]]
    compatible: dict[str, bool | None]
    update_gain: dict[str, float | None]
    update_gain_reason: dict[str, str | None]
    headline: str
    verdict: str | None

    _evidence: Evidence | None = PrivateAttr(default=None)

    @property
    def evidence(self) -> Evidence:
        """The values behind the numbers.

        Raises:
            UsageError: This result was read from JSON, which does not hold them.
        """
        if self._evidence is None:
            raise UsageError("this result was read from JSON, which holds no per-query values", hint="evaluate again")
        return self._evidence

    def with_evidence(self, evidence: Evidence) -> EvalResult:
        """The same result with the values behind it."""
        result = self.model_copy()
        result._evidence = evidence
        return result

    def cell(self, role: str) -> Cell:
        """The cell of a role.

        Raises:
            UnknownNameError: It was not evaluated.
        """
        for cell in self.cells:
            if cell.role == role:
                return cell
        raise UnknownNameError("cell in this evaluation", role, [cell.role for cell in self.cells])

    def gate(self, expression: str, *, point: bool = False) -> GateResult:
        """Judge a gate (see `gate.py`) by the paired interval, or by the point estimate."""
        return judge(parse_gate(expression), self.evidence.resampled, point=point)

    def to_json(self) -> str:
        """Stable JSON: what `featstore eval --json` prints."""
        return self.model_dump_json(indent=2)
