"""The plan of an upgrade as one HTML page, in the style of every report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import featstore
from featstore import amounts
from featstore.report import numbers
from featstore.report.curve_plot import Curve, Level, curve_plot
from featstore.report.interval_plot import Interval, interval_plot
from featstore.report.templating import template
from featstore.report.words import printable

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from featstore.report.plan import Plan, PlanPath

__all__ = ["plan_to_html", "write_plan"]

KINDS = {
    "today": "Today",
    "queries": "The gallery stays: queries go through a map",
    "gallery": "The gallery goes through a map: no image is encoded again",
    "backfill": "A mapped gallery, some images encoded again",
    "two indexes": "Two indexes side by side, some images encoded again",
    "full": "Every image encoded again",
}
"""What is done in each kind of way, in the order in which they are shown."""


def write_plan(plan: Plan, path: Path) -> Path:
    """Write the page, replacing an older one atomically."""
    from featstore.whole_files import write_whole

    write_whole(path, plan_to_html(plan).encode(errors="replace"))
    return path


def plan_to_html(plan: Plan) -> str:
    """The page as text: self-contained, without scripts, everything from outside escaped."""
    groups = [(label, [path for path in plan.paths if path.kind == kind]) for kind, label in KINDS.items()]
    page = template("plan.html").render(
        plan=plan,
        version=featstore.__version__,
        full=next((path for path in plan.paths if path.kind == "full"), None),
        today=plan.paths[0],
        groups=[(label, paths) for label, paths in groups if paths],
        ways_plot=_ways_plot(plan),
        curves_plot=_curves_plot(plan),
        style=_style,
        word=_word,
        size=_size,
        seconds=amounts.brief,
        encoding=_encoding,
        numbers=numbers,
    )
    return printable(page)


def _ways_plot(plan: Plan) -> Markup:
    """Every whole way and the recommended one, best first, against today."""
    tag = "recommended" if plan.recommended else "look at first"
    shown = [path for path in plan.paths if path.kind not in ("backfill", "two indexes") or path is plan.lead]
    ordered = sorted(shown, key=lambda path: -path.value.value)
    today = plan.paths[0]
    rows = [
        Interval(
            f"{path.name}{f' · {tag}' if plan.lead is path else ''}",
            f"{numbers.percent(path.value.value)} %",
            path.value.value,
            None if path.value.low is None or path.value.high is None else (path.value.low, path.value.high),
            "old" if path.kind == "today" else _style(plan, path),
            hollow=path.kind == "full",
        )
        for path in ordered
    ]
    listed = ", ".join(f"{row.label} {row.text}" for row in rows)
    return interval_plot(
        rows,
        reference=today.value.value,
        band=None,
        describe=f"{plan.quality} of every way, best first: {listed}",
        show=lambda value: f"{100 * value:g} %",
    )


def _curves_plot(plan: Plan) -> Markup | None:
    if not plan.curves:
        return None
    curves = []
    for found in plan.curves:
        points = found.metrics[plan.headline]
        curves.append(Curve(found.label, found.fractions, [point.value for point in points], None, None))
    described = "; ".join(
        f"{curve.label}: " + ", ".join(f"{numbers.percent(value)} %" for value in curve.values) for curve in curves
    )
    return curve_plot(
        curves,
        Level("today", plan.paths[0].value.value),
        x_label="images encoded again, %",
        y_label=f"{plan.quality}, %",
        describe=f"{plan.quality} from 0 to 100 % backfilled, by {described}",
        show=lambda value: f"{100 * value:g}",
    )


def _style(plan: Plan, path: PlanPath) -> str:
    if plan.judged_by != "labels":
        return "plain"
    return {True: "good", False: "bad", None: "open"}[path.compatible]


def _word(plan: Plan, path: PlanPath) -> str:
    if plan.judged_by != "labels":
        return ""
    return {True: "better than today", False: "not better", None: "undecided"}[path.compatible]


def _size(count: int) -> str:
    return amounts.size(count) if count else "none"


def _encoding(plan: Plan, path: PlanPath) -> str:
    """How long its images take to encode, where somebody said how fast that is."""
    if not path.images or not plan.images_per_second:
        return ""
    return amounts.brief(path.images / plan.images_per_second)
