"""The HTML page: one file without scripts or anything to load, everything from outside escaped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import featstore
from featstore.errors import UsageError
from featstore.evaluate import metric_info
from featstore.report import numbers
from featstore.report.by_class import extremes
from featstore.report.examples import find_examples
from featstore.report.svg import Dot, Interval, interval_plot, scatter_plot
from featstore.report.words import (
    CROSS,
    CROSS_CHANGE,
    OLD,
    ROLES,
    compared,
    default_title,
    outcome,
    printable,
    verdict,
)

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from featstore.evaluate import Cell, Changes, Estimated, EvalResult
    from featstore.store import FeatureSet, Store

__all__ = ["to_html"]

_LEAST_RANGE = 0.05
"""Values that lie closer together than this are not shaded over the full range."""


@dataclass(frozen=True, slots=True)
class _Value:
    """One cell of the table: texts, the style of the difference, and the shade in [0, 1]."""

    value: str
    span: str
    change: Estimated | None
    style: str
    shade: float


@dataclass(frozen=True, slots=True)
class _Gain:
    """One metric of the update gain."""

    metric: str
    arrived: Estimated
    possible: Estimated | None
    gain: float | None
    reason: str | None


def to_html(
    result: EvalResult, *, store: Store | None = None, images: Path | None = None, title: str | None = None
) -> str:
    """The page as text; see `write_report`."""
    both = compared(result)
    with_values = both and _has_evidence(result)
    metrics = list(result.cells[0].metrics)
    gains, losses = find_examples(result, store, images) if with_values and store is not None else ([], [])
    found = result.changes
    page = _template().render(
        title=title or default_title(result),
        version=featstore.__version__,
        result=result,
        verdict=verdict(result),
        outcomes=[(metric, *outcome(compatible=found)) for metric, found in result.compatible.items()],
        metrics={metric: metric_info(metric)[0].description for metric in metrics},
        roles=ROLES,
        table={cell.role: [_value(result, cell, metric) for metric in metrics] for cell in result.cells},
        cells_plot=_cells_plot(result) if len(result.cells) > 1 else None,
        changes_plot=_changes_plot(result) if both else None,
        gains=_gains(result),
        same_reason=_same_reason(result),
        changes=found,
        extremes=extremes(found) if found else None,
        classes_plot=_classes_plot(found, result.headline) if found else None,
        examples=[("Largest gains", "good", gains), ("Largest losses", "bad", losses)],
        sets=_sets(result, store),
        numbers=numbers,
    )
    return printable(page)


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("featstore.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _has_evidence(result: EvalResult) -> bool:
    try:
        return bool(result.evidence)
    except UsageError:
        return False


def _value(result: EvalResult, cell: Cell, metric: str) -> _Value:
    change = result.differences.get(f"{cell.role} - {OLD}", {}).get(metric)
    values = [other.metrics[metric] for other in result.cells]
    return _Value(
        value=numbers.percent(cell.metrics[metric]),
        span=numbers.span(cell.interval.get(metric)),
        change=change,
        style=_direction(change) if change else "",
        shade=(cell.metrics[metric] - min(values)) / max(max(values) - min(values), _LEAST_RANGE),
    )


def _direction(change: Estimated) -> str:
    """`good` or `bad` where the interval leaves zero out, otherwise `open`."""
    if change.low is not None and change.low > 0:
        return "good"
    return "bad" if change.high is not None and change.high < 0 else "open"


def _cells_plot(result: EvalResult) -> Markup:
    metric = result.headline
    rows = []
    for cell in result.cells:
        text = f"{numbers.percent(cell.metrics[metric])} %"
        rows.append(
            Interval(
                f"{cell.role} (unrelated)" if cell.unrelated else cell.role,
                text,
                cell.metrics[metric],
                cell.interval.get(metric),
                "old" if cell.role == OLD else "other",
                hollow=cell.unrelated,
            )
        )
    first = result.cells[0]
    described = ", ".join(f"{row.label} {row.text}" for row in rows)
    return interval_plot(
        rows,
        reference=first.metrics[metric],
        band=first.interval.get(metric),
        describe=f"{metric} with 95 % intervals: {described}",
        show=_tick,
    )


def _changes_plot(result: EvalResult) -> Markup:
    rows = []
    for metric, change in result.differences[CROSS_CHANGE].items():
        ends = None if change.low is None or change.high is None else (change.low, change.high)
        style, _ = outcome(compatible=result.compatible[metric])
        rows.append(Interval(metric, numbers.points(change.value), change.value, ends, style))
    described = ", ".join(f"{row.label} {row.text}" for row in rows)
    return interval_plot(
        rows,
        reference=0.0,
        band=None,
        describe=f"difference new/old − old/old in percentage points with 95 % intervals: {described}",
        show=_tick,
    )


def _classes_plot(found: Changes, metric: str) -> Markup:
    dots = [
        Dot(
            item.before,
            item.after,
            f"{item.name}: {numbers.percent(item.before)} → {numbers.percent(item.after)} % ({item.queries} queries)",
        )
        for item in found.classes
    ]
    better = sum(dot.y > dot.x for dot in dots)
    return scatter_plot(
        dots,
        x_label=f"{metric} {OLD}, %",
        y_label=f"{metric} {CROSS}, %",
        describe=f"{len(dots)} classes, {metric} {CROSS} against {OLD}: {better} are better with new queries",
        show=_tick,
    )


def _tick(value: float) -> str:
    return f"{100 * value:.6g}".replace("-", "−")


def _gains(result: EvalResult) -> list[_Gain]:
    arrived = result.differences.get(CROSS_CHANGE, {})
    possible = result.differences.get(f"reference - {OLD}", {})
    return [
        _Gain(
            metric,
            arrived[metric],
            possible.get(metric),
            gain,
            result.update_gain_reason[metric],
        )
        for metric, gain in result.update_gain.items()
    ]


def _same_reason(result: EvalResult) -> str | None:
    """Why no metric has an update gain, when the reason is one and the same."""
    reasons = set(result.update_gain_reason.values())
    return reasons.pop() if len(reasons) == 1 else None


def _sets(result: EvalResult, store: Store | None) -> list[tuple[str, FeatureSet | None]]:
    references = dict.fromkeys(ref for cell in result.cells for ref in (cell.query, cell.gallery))
    return [(ref, store.features(ref) if store else None) for ref in references]
