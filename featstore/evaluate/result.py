"""What an evaluation found: the numbers as JSON, the values behind them in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field, PrivateAttr

from featstore.errors import UnknownNameError, UsageError
from featstore.evaluate.gate import GateResult, judge, parse_gate
from featstore.evaluate.records import (
    Backfill,
    Cell,
    Chain,
    Changes,
    Distribution,
    Estimated,
    Flips,
    ProtocolRecord,
    Record,
    RunRecord,
    ThresholdTransfer,
)

if TYPE_CHECKING:
    from featstore.evaluate.arrays import PerQuery
    from featstore.evaluate.cells import CellPlan, Sides
    from featstore.evaluate.measure import CellMeasure
    from featstore.evaluate.protocols import Problem
    from featstore.evaluate.statistics import Resampled

__all__ = ["EvalResult", "Evidence"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a result's numbers were computed from; in memory only.

    Attributes:
        problem: Rows, classes and ground truth; of the first of several runs.
        per_query: Every query's values, by role; of the first of several runs.
        resampled: Means over resamples of all runs, for gates and further differences.
        sides: The feature sets and maps of the first run.
        measure: How its cells were measured.
        plans: Its cells, by role.
    """

    problem: Problem
    per_query: dict[str, PerQuery]
    resampled: Resampled
    sides: Sides
    measure: CellMeasure
    plans: dict[str, CellPlan]


class EvalResult(Record):
    """Everything an evaluation found. The JSON holds all but `evidence`.

    Attributes:
        protocol: How the numbers came about.
        cells: One for each pair of sets, in the order of the request; over several runs, means.
        differences: Paired differences, {"new/old - old/old": {metric: difference}, …}.
        compatible: By metric: True when every cross-test passes, False when one does not, None for undecided. Empty when
            there is no cross-test with its baseline. Of `new/old` alone where mapped roles were measured beside it.
        update_gain: By metric; None where it means nothing. Empty where `compatible` is.
        update_gain_reason: Why there is none, by metric.
        headline: The metric that the verdict is about.
        verdict: One sentence; None unless models were compared.
        subject: The cross-test that the verdict is about: `new/old`, a mapped role, or the newest queries on the oldest
            gallery of a chain.
        criterion: Every cross-test's own verdict by metric, {"new/old": {metric: True | False | None}}.
        update_gain_interval: Of every update gain there is.
        p_up: AdvBCT's score of the self-test by metric (fraction; 0.5 is as good as the reference); None like the gain.
        p_comp: AdvBCT's score of the cross-test.
        p_1: Their harmonic mean.
        chain: AC, BC, FC and AM; None without a chain of at least two models.
        flips: Queries that break and queries that are repaired, by role and by recall metric.
        changes: How the subject's change is spread over queries and classes.
        backfill: A curve for each order that was asked for.
        thresholds: Operating points kept through the upgrade, where they were asked for; of the first of several runs.
        distributions: Scores of positive and negative pairs, by role, where thresholds were asked for.
        left_out: What was not measured, and why, by role (or `backfill`).
        runs: Every run, when several were evaluated together.
    """

    protocol: ProtocolRecord
    cells: list[Cell]
    differences: dict[str, dict[str, Estimated]]
    compatible: dict[str, bool | None]
    update_gain: dict[str, float | None]
    update_gain_reason: dict[str, str | None]
    headline: str
    verdict: str | None
    subject: str | None = None
    criterion: dict[str, dict[str, bool | None]] = Field(default_factory=dict)
    update_gain_interval: dict[str, tuple[float, float] | None] = Field(default_factory=dict)
    p_up: dict[str, Estimated | None] = Field(default_factory=dict)
    p_comp: dict[str, Estimated | None] = Field(default_factory=dict)
    p_1: dict[str, Estimated | None] = Field(default_factory=dict)
    chain: Chain | None = None
    flips: dict[str, dict[str, Flips]] = Field(default_factory=dict)
    changes: Changes | None = None
    backfill: list[Backfill] = Field(default_factory=list)
    thresholds: list[ThresholdTransfer] = Field(default_factory=list)
    distributions: dict[str, Distribution] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)
    runs: list[RunRecord] = Field(default_factory=list)

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
