"""The plots of a report, drawn from what an evaluation found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from featstore.report import numbers
from featstore.report.curve_plot import Curve, Level, curve_plot
from featstore.report.histogram_plot import histogram_plot
from featstore.report.interval_plot import Interval, interval_plot
from featstore.report.scatter_plot import Dot, scatter_plot
from featstore.report.words import Subject, outcome

if TYPE_CHECKING:
    from markupsafe import Markup

    from featstore.evaluate import EvalResult

__all__ = ["Histogram", "cells_plot", "changes_plot", "classes_plot", "curves_plot", "histograms"]


class Histogram(NamedTuple):
    """The scores of one cell: what the plot is called, the plot, and the pairs behind it."""

    role: str
    plot: Markup
    positives: int
    negatives: int


def cells_plot(result: EvalResult) -> Markup:
    """The headline metric of every cell with its interval, against the first cell."""
    metric = result.headline
    first = result.cells[0]
    rows = [
        Interval(
            f"{cell.role} (unrelated)" if cell.unrelated else cell.role,
            f"{numbers.percent(cell.metrics[metric])} %",
            cell.metrics[metric],
            cell.interval.get(metric),
            "old" if cell is first else "other",
            hollow=cell.unrelated,
        )
        for cell in result.cells
    ]
    described = ", ".join(f"{row.label} {row.text}" for row in rows)
    return interval_plot(
        rows,
        reference=first.metrics[metric],
        band=first.interval.get(metric),
        describe=f"{metric} with 95 % intervals: {described}",
        show=_percent,
    )


def changes_plot(result: EvalResult, about: Subject) -> Markup:
    """The difference that the verdict is about, in every metric."""
    rows = []
    for metric, change in result.differences[about.change].items():
        ends = None if change.low is None or change.high is None else (change.low, change.high)
        style, _ = outcome(compatible=result.criterion[about.role][metric])
        rows.append(Interval(metric, numbers.points(change.value), change.value, ends, style))
    described = ", ".join(f"{row.label} {row.text}" for row in rows)
    return interval_plot(
        rows,
        reference=0.0,
        band=None,
        describe=f"difference {about.name} in percentage points with 95 % intervals: {described}",
        show=_percent,
    )


def classes_plot(result: EvalResult, about: Subject) -> Markup | None:
    """Every class before and after; None when the result does not say."""
    if result.changes is None:
        return None
    metric = result.headline
    dots = [
        Dot(
            item.before,
            item.after,
            f"{item.name}: {numbers.percent(item.before)} → {numbers.percent(item.after)} % ({item.queries} queries)",
        )
        for item in result.changes.classes
    ]
    better = sum(dot.y > dot.x for dot in dots)
    return scatter_plot(
        dots,
        x_label=f"{metric} {about.before}, %",
        y_label=f"{metric} {about.role}, %",
        describe=f"{len(dots)} classes, {metric} {about.role} against {about.before}: {better} are better afterwards",
        show=_percent,
    )


def curves_plot(result: EvalResult, about: Subject | None) -> Markup | None:
    """The headline metric through a backfill, for every order; None without a curve."""
    if not result.backfill or about is None:
        return None
    metric = result.headline
    curves = []
    for found in result.backfill:
        points = found.metrics[metric]
        bounded = all(point.low is not None for point in points)
        curves.append(
            Curve(
                found.label,
                found.fractions,
                [point.value for point in points],
                [point.low or 0.0 for point in points] if bounded else None,
                [point.high or 0.0 for point in points] if bounded else None,
            )
        )
    described = "; ".join(
        f"{curve.label}: " + ", ".join(f"{numbers.percent(value)} %" for value in curve.values) for curve in curves
    )
    return curve_plot(
        curves,
        Level(f"{about.before} today", result.cell(about.before).metrics[metric]),
        x_label="gallery backfilled, %",
        y_label=f"{metric}, %",
        describe=f"{metric} from 0 to 100 % backfilled, by {described}",
        show=_percent,
    )


def histograms(result: EvalResult) -> list[Histogram]:
    """The scores of right and of wrong pairs in every cell that has them."""
    shown = next((item for item in result.thresholds if item.resolved), None)
    found = []
    for role, scores in result.distributions.items():
        threshold = None
        if shown is not None:
            value = shown.kept[role].threshold
            threshold = (value, f"{shown.asked}: {numbers.score(value)}")
        plot = histogram_plot(
            scores,
            threshold=threshold,
            describe=f"scores of right and wrong pairs in {role}, from {scores.low:.2f} to {scores.high:.2f}",
            show=lambda value: f"{value:.3g}".replace("-", "−"),
        )
        found.append(Histogram(role, plot, sum(scores.positives), sum(scores.negatives)))
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.6g}".replace("-", "−")
