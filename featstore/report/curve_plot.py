"""Values along a way from 0 to 1, with bands for their intervals: what users see while a gallery is backfilled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from featstore.report.svg import tag, ticks

__all__ = ["Curve", "Level", "curve_plot"]

_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 44


class Curve(NamedTuple):
    """A line through points.

    Attributes:
        label: What the legend calls it.
        fractions: Where the points are, from 0 to 1.
        values: Their values.
        lows: Lower ends of the intervals; None without intervals.
        highs: Upper ends.
    """

    label: str
    fractions: Sequence[float]
    values: Sequence[float]
    lows: Sequence[float] | None
    highs: Sequence[float] | None


class Level(NamedTuple):
    """A horizontal line to compare curves with."""

    label: str
    value: float


def curve_plot(
    curves: Sequence[Curve], level: Level, *, x_label: str, y_label: str, describe: str, show: Callable[[float], str]
) -> Markup:
    """Curves over one axis, numbered in the style sheet from 0.

    Args:
        curves: At least one.
        level: What there was before.
        x_label: Below the plot.
        y_label: Left of the plot.
        describe: What the picture shows, for readers who do not see it.
        show: How a tick's value is written.
    """
    ends = [end for curve in curves for end in (*curve.values, *(curve.lows or ()), *(curve.highs or ()))]
    marks = ticks(min(*ends, level.value), max(*ends, level.value), about=5)
    low, high = marks[0], marks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(_LEFT + x * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    (left, bottom), (right, top) = place(0, low), place(1, high)
    parts = []
    for mark in marks:
        _, y = place(0, mark)
        parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, cls="grid"))
        parts.append(tag("text", show(mark), x=left - 7, y=y + 4, cls="tick end"))
    for fraction in (0, 0.25, 0.5, 0.75, 1):
        x, _ = place(fraction, low)
        parts.append(tag("text", f"{100 * fraction:g}", x=x, y=bottom + 18, cls="tick"))
    _, y = place(0, level.value)
    parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, cls="reference"))
    parts.append(tag("text", level.label, x=right - 4, y=y - 6, cls="note end"))
    for number, curve in enumerate(curves):
        if curve.lows and curve.highs:
            there = [place(x, value) for x, value in zip(curve.fractions, curve.highs, strict=True)]
            back = [place(x, value) for x, value in zip(curve.fractions, curve.lows, strict=True)]
            parts.append(tag("path", d=f"{_path([*there, *reversed(back)])}Z", cls=f"spread series{number}"))
    for number, curve in enumerate(curves):
        points = [place(x, value) for x, value in zip(curve.fractions, curve.values, strict=True)]
        parts.append(tag("path", d=_path(points), cls=f"curve series{number}"))
        for (x, y), fraction, value in zip(points, curve.fractions, curve.values, strict=True):
            tip = f"{curve.label}, {100 * fraction:g} %: {show(round(value, 4))}"
            parts.append(tag("circle", tag("title", tip), cx=x, cy=y, r=4.5, cls=f"dot series{number}"))
    parts.append(tag("text", x_label, x=(left + right) / 2, y=_HEIGHT - 6, cls="axis"))
    middle = (top + bottom) / 2
    parts.append(tag("text", y_label, x=12, y=middle, transform=f"rotate(-90 12 {middle:g})", cls="axis"))
    return tag("svg", *parts, cls="curves", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=describe)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
