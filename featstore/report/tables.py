"""The tables of a report as texts and styles, ready to be laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from featstore.evaluate.compatibility import baseline
from featstore.report import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.evaluate import Cell, Changes, ClassChange, Estimated, EvalResult

__all__ = ["Extremes", "Heat", "Value", "cell_values", "direction", "extremes", "heat_table"]

_LEAST_RANGE = 0.05
"""Values that lie closer together than this are not shaded over the full range."""
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a table: texts, its paired change, the style of that, and a shade in [0, 1]."""

    value: str
    span: str
    change: Estimated | None
    style: str
    shade: float


@dataclass(frozen=True, slots=True)
class Heat:
    """The matrix of one metric: queries in rows, galleries in columns.

    Attributes:
        galleries: What the columns are.
        rows: What the queries are, and one entry for each gallery; None where nothing was measured.
        subject: The queries and the gallery that the verdict is about.
    """

    galleries: list[str]
    rows: list[tuple[str, list[Value | None]]]
    subject: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Extremes:
    """The classes that gain most and those that lose most, the largest change first."""

    gaining: list[ClassChange]
    losing: list[ClassChange]


def cell_values(result: EvalResult, cell: Cell) -> list[Value]:
    """A row of the table of all metrics: one value a metric."""
    return [_value(result, cell, metric) for metric in cell.metrics]


def heat_table(result: EvalResult) -> Heat | None:
    """The matrix in the headline metric; None for a single cell."""
    if len(result.cells) < 2:
        return None
    found = {_ends(cell.role): _value(result, cell, result.headline) for cell in result.cells}
    queries, galleries = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
    rows = [(query, [found.get((query, gallery)) for gallery in galleries]) for query in queries]
    return Heat(galleries, rows, _ends(result.subject) if result.subject else None)


def _ends(role: str) -> tuple[str, str]:
    """Queries and gallery of a role."""
    query, slash, gallery = role.partition("/")
    return (query, gallery) if slash else (role, role)


def _value(result: EvalResult, cell: Cell, metric: str) -> Value:
    values = [other.metrics[metric] for other in result.cells]
    change = _change(result, cell.role, metric)
    return Value(
        value=numbers.percent(cell.metrics[metric]),
        span=numbers.span(cell.interval.get(metric)),
        change=change,
        style=direction(change) if change else "",
        shade=(cell.metrics[metric] - min(values)) / max(max(values) - min(values), _LEAST_RANGE),
    )


def _change(result: EvalResult, role: str, metric: str) -> Estimated | None:
    """The difference to the gallery's own model, or to the oldest one."""
    wanted = baseline(role)
    for name, by_metric in result.differences.items():
        after, _, before = name.partition(" - ")
        if after == role and wanted in (None, before):
            return by_metric[metric]
    return None


def direction(change: Estimated) -> str:
    """`good` or `bad` where the interval leaves zero out, otherwise `open`."""
    if change.low is not None and change.low > 0:
        return "good"
    return "bad" if change.high is not None and change.high < 0 else "open"


def extremes(changes: Changes) -> Extremes:
    """At most 5 classes on each side; of equal changes, the class that comes first by name."""

    def most(items: Sequence[ClassChange], sign: int) -> list[ClassChange]:
        ordered = sorted(items, key=lambda item: sign * (item.before - item.after))
        return [item for item in ordered[:_LISTED] if sign * (item.after - item.before) > 0]

    return Extremes(most(changes.classes, 1), most(changes.classes, -1))
