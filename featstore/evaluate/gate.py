"""Gates: an inequality between metrics that has to hold before something is released.

    new/old.map > old/old.map          new/old.recall@1 >= 0.98*new/new.recall@1          new/old.nfr@1 < 0.02

A side is a sum of terms; a term is a number, a cell's metric (`CELL.METRIC`), or a number times one. The difference of
the sides is judged by its paired 95 % interval: it has to hold for the whole interval, unless the point estimate is
asked for. Beside the metrics, `nfr@k` and `pfr@k` are the shares of queries that flip (`flips.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from pydantic import BaseModel, ConfigDict

from featstore.errors import UnknownNameError, UsageError
from featstore.evaluate.metrics import metric_info
from featstore.evaluate.statistics import Column, Estimate, Resampled

__all__ = ["Gate", "GateResult", "judge", "parse_gate"]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)(?![\w@/.])"
    r"|(?P<role>[a-z][a-z0-9-]*(?:/[a-z][a-z0-9-]*)?)\.(?P<metric>[a-z][a-z0-9-]*(?::[a-z]+)?(?:@\w+(?:=\d[\d.]*(?:e-?\d+)?)?(?::\w+)?)?)"
    r"|(?P<compare>>=|<=|>|<)|(?P<sign>[+-])|(?P<times>\*))"
)
_EXAMPLE = "for example: new/old.map > old/old.map, or new/old.recall@1 >= 0.98*new/new.recall@1"


@dataclass(frozen=True, slots=True)
class Gate:
    """A parsed gate: Σ weights·columns + constant, compared with 0.

    Attributes:
        expression: As it was written.
        weights: Left side minus right side, by column.
        constant: Numbers of the left side minus those of the right side.
        comparison: `>`, `>=`, `<` or `<=`.
    """

    expression: str
    weights: dict[Column, float]
    constant: float
    comparison: str

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that have to be evaluated."""
        return tuple(dict.fromkeys(_evaluated(column.metric) for column in self.weights))


class GateResult(BaseModel):
    """Whether a gate is passed.

    Attributes:
        expression: The gate.
        passed: The answer.
        point: Whether the point estimate decided; otherwise the interval did.
        value: Left side minus right side.
        low: Lower end of its 95 % interval.
        high: Upper end.
        reason: Why, in one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    expression: str
    passed: bool
    point: bool
    value: float
    low: float | None
    high: float | None
    reason: str


def parse_gate(expression: str) -> Gate:
    """Read a gate.

    Raises:
        UsageError: The text has another form; the message says where and what was expected.
        UnknownNameError: A metric that nobody knows.
    """
    return _Parser(expression).gate()


def judge(gate: Gate, resampled: Resampled, *, point: bool = False) -> GateResult:
    """Evaluate a gate.

    Args:
        gate: The gate.
        resampled: What was evaluated.
        point: Let the point estimate decide instead of the interval.

    Raises:
        UnknownNameError: The gate names a cell or a metric that was not evaluated.
        UsageError: There is no interval and `point` is not set.
    """
    roles = dict.fromkeys(column.role for column in resampled.columns)
    for column in gate.weights:
        if column.role not in roles:
            raise UnknownNameError(
                "cell in this evaluation", column.role, roles, hint=f"the gate is '{gate.expression}'"
            )
        if not resampled.has(column):
            known = {known.metric for known in resampled.columns}
            raise UnknownNameError("metric in this evaluation", column.metric, known, hint="add it to the metrics")
    estimate = resampled.estimate(gate.weights, gate.constant)
    if estimate.low is None and not point:
        raise UsageError(
            f"the gate '{gate.expression}' is judged by an interval, and nothing was resampled",
            hint="leave the bootstrap on, or take the point estimate with --gate-point",
        )
    return _judged(gate, estimate, point=point)


def _judged(gate: Gate, estimate: Estimate, *, point: bool) -> GateResult:
    upward = gate.comparison[0] == ">"
    bound = estimate.low if upward else estimate.high
    decisive = estimate.value if point or bound is None else bound
    passed = decisive > 0 if upward else decisive < 0
    passed = passed or (gate.comparison.endswith("=") and decisive == 0)
    if point:
        what = "the difference of the sides"
    else:
        what = f"the {'lower' if upward else 'upper'} 95 % bound of the difference of the sides"
    needed = "above" if upward else "below"
    reason = f"{what} is {decisive:+.4f}; the gate needs it {needed} 0" + (
        " or at it" if "=" in gate.comparison else ""
    )
    return GateResult(
        expression=gate.expression,
        passed=passed,
        point=point,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        reason=reason,
    )


def _evaluated(metric: str) -> str:
    """The metric that has to be evaluated for this one: flips at k follow from recall at k."""
    family, at, cut = metric.partition("@")
    return f"recall@{cut}" if at and family in ("nfr", "pfr") else metric


class _Parser:
    """Recursive descent over the tokens of a gate; `_at` is where reading goes on."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._weights: dict[Column, float] = {}
        self._constant = 0.0

    def gate(self) -> Gate:
        self._side(1.0)
        comparison = self._take("compare") or self._fail("one of > >= < <=, or + - and another term")
        self._side(-1.0)
        if self._text[self._at :].strip():
            self._fail("the end, or + - and another term")
        if not self._weights:
            raise UsageError(
                f"the gate '{self._text}' names no cell, so it always gives the same answer", hint=_EXAMPLE
            )
        return Gate(self._text, self._weights, self._constant, comparison)

    def _side(self, factor: float) -> None:
        sign = self._take("sign") or "+"
        while sign:
            self._term(factor if sign == "+" else -factor)
            sign = self._take("sign") or ""

    def _term(self, factor: float) -> None:
        number = self._take("number")
        if number and not self._take("times"):
            self._constant += factor * float(number)
            return
        weight = factor * float(number) if number else factor
        role = self._take("role")
        if not role:
            self._fail("a metric of a cell, such as new/old.map" + ("" if number else ", or a number"))
        column = Column(*role.split(".", 1))
        metric_info(_evaluated(column.metric))
        self._weights[column] = self._weights.get(column, 0.0) + weight

    def _take(self, kind: str) -> str | None:
        found = _TOKEN.match(self._text, self._at)
        if not found or found[kind] is None:
            return None
        self._at = found.end()
        return f"{found['role']}.{found['metric']}" if kind == "role" else found[kind]

    def _fail(self, expected: str) -> NoReturn:
        rest = self._text[self._at :].strip()
        where = f"at '{rest}'" if rest else "at the end"
        raise UsageError(f"cannot read the gate '{self._text}' {where}: expected {expected}", hint=_EXAMPLE)
