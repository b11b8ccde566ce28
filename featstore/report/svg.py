"""Plots as inline SVG. Colours come from the page's style sheet, so that they follow the colour scheme.

The interval plot has no view box: positions across are percentages, so that it fills any width with text of one size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

__all__ = ["Dot", "Interval", "interval_plot", "scatter_plot", "ticks"]

_ROW = 46  # height of one row of the interval plot, in pixels
_AXIS = 24
_SIDE = 400  # side of the scatter plot's view box
_MARGIN = 40
_SINGLE_DOTS = 1000  # so many points keep their own tooltips


class Interval(NamedTuple):
    """One row of an interval plot.

    Attributes:
        label: Left of the row.
        text: The value in words, right of the row.
        value: Where the dot is.
        ends: Where the line ends; None for a dot alone.
        style: A class of the style sheet: what kind of row it is.
        hollow: Draw the dot as a ring.
    """

    label: str
    text: str
    value: float
    ends: tuple[float, float] | None
    style: str
    hollow: bool = False


class Dot(NamedTuple):
    """One point of a scatter plot, with its tooltip."""

    x: float
    y: float
    tip: str


def interval_plot(
    rows: Sequence[Interval],
    *,
    reference: float,
    band: tuple[float, float] | None,
    describe: str,
    show: Callable[[float], str],
) -> Markup:
    """Dots with their intervals, one row each, and a vertical line to compare them with.

    Args:
        rows: From top to bottom.
        reference: Where the line is.
        band: Shaded stretch around the line.
        describe: What the picture shows, for readers who do not see it.
        show: How a tick's value is written.
    """
    values = [reference, *(row.value for row in rows), *(end for row in rows for end in row.ends or ())]
    room = 0.1 * (max(values) - min(values))  # keeps the line off the edges, where the labels are
    marks = ticks(min(*values, reference - room), max(*values, reference + room))
    low, high = marks[0], marks[-1]

    def across(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    height = _ROW * len(rows)
    parts = []
    for mark in marks:
        parts.append(_tag("line", x1=across(mark), x2=across(mark), y1=0, y2=height, cls="grid"))
        parts.append(_tag("text", show(mark), x=across(mark), y=height + 18, cls=f"tick {_anchor(mark, marks)}"))
    if band:
        width = f"{100 * (band[1] - band[0]) / (high - low):.2f}%"
        parts.append(_tag("rect", x=across(band[0]), width=width, y=0, height=height, cls="band"))
    parts.append(_tag("line", x1=across(reference), x2=across(reference), y1=0, y2=height, cls="reference"))
    for number, row in enumerate(rows):
        top, middle = _ROW * number, _ROW * number + 30
        parts.append(_tag("text", row.label, x=0, y=top + 16, cls="name"))
        parts.append(_tag("text", row.text, x="100%", y=top + 16, cls="value end"))
        if row.ends:
            left, right = (across(end) for end in row.ends)
            parts.append(_tag("line", x1=left, x2=right, y1=middle, y2=middle, cls=f"whisker {row.style}"))
        dot = f"dot {row.style} hollow" if row.hollow else f"dot {row.style}"
        parts.append(_tag("circle", cx=across(row.value), cy=middle, r=6, cls=dot))
    return _tag("svg", *parts, cls="intervals", height=height + _AXIS, role="img", aria_label=describe)


def scatter_plot(
    dots: Sequence[Dot], *, x_label: str, y_label: str, describe: str, show: Callable[[float], str]
) -> Markup:
    """Points in a square, and its diagonal. Many points are drawn as one path without tooltips.

    Args:
        dots: At coordinates from 0 upwards.
        x_label: Below the plot.
        y_label: Left of the plot.
        describe: What the picture shows, for readers who do not see it.
        show: How a tick's value is written.
    """
    inside = _SIDE - 2 * _MARGIN
    marks = ticks(0, max((max(dot.x, dot.y) for dot in dots), default=1.0))
    most = marks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return round(_MARGIN + inside * x / most, 1), round(_SIDE - _MARGIN - inside * y / most, 1)

    parts = [_tag("rect", x=_MARGIN, y=_MARGIN, width=inside, height=inside, cls="frame")]
    for mark in marks:
        x, y = place(mark, mark)
        parts.append(_tag("text", show(mark), x=x, y=_SIDE - _MARGIN + 17, cls="tick"))
        parts.append(_tag("text", show(mark), x=_MARGIN - 7, y=y + 4, cls="tick end"))
    (left, bottom), (right, top) = place(0, 0), place(most, most)
    parts.append(_tag("line", x1=left, y1=bottom, x2=right, y2=top, cls="reference"))
    parts.append(_tag("text", "above the diagonal: better with the new model", x=left, y=top - 10, cls="note"))
    if len(dots) <= _SINGLE_DOTS:
        for dot in dots:
            x, y = place(dot.x, dot.y)
            style = "good" if dot.y > dot.x else "bad" if dot.y < dot.x else "even"
            parts.append(_tag("circle", _tag("title", dot.tip), cx=x, cy=y, r=4.5, cls=f"point {style}"))
    else:
        for style, some in _by_side(dots).items():
            pixels = dict.fromkeys(tuple(round(value) for value in place(dot.x, dot.y)) for dot in some)
            path = "".join(f"M{x} {y}h0" for x, y in pixels)
            parts.append(_tag("path", d=path, cls=f"points {style}"))
    parts.append(_tag("text", x_label, x=_SIDE / 2, y=_SIDE - 4, cls="axis"))
    parts.append(_tag("text", y_label, x=12, y=_SIDE / 2, transform=f"rotate(-90 12 {_SIDE / 2:g})", cls="axis"))
    return _tag("svg", *parts, cls="scatter", viewBox=f"0 0 {_SIDE} {_SIDE}", role="img", aria_label=describe)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers at equal steps (1, 2 or 5 times a power of ten) that enclose [low, high]; at least two."""
    width = max(high - low, 1e-6 * max(1.0, abs(high)))
    exact = width / about
    power = 10.0 ** math.floor(math.log10(exact))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= exact * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _anchor(mark: float, marks: Sequence[float]) -> str:
    return "start" if mark == marks[0] else "end" if mark == marks[-1] else ""


def _by_side(dots: Iterable[Dot]) -> dict[str, list[Dot]]:
    sides: dict[str, list[Dot]] = {"even": [], "bad": [], "good": []}
    for dot in dots:
        sides["good" if dot.y > dot.x else "bad" if dot.y < dot.x else "even"].append(dot)
    return {style: some for style, some in sides.items() if some}


def _tag(name: str, *children: object, cls: str = "", **attributes: object) -> Markup:
    """An element; children and attribute values are escaped. Underscores in attribute names become hyphens."""
    given = {"class": cls, **attributes} if cls else attributes
    written = Markup("").join(Markup(' {}="{}"').format(key.replace("_", "-"), value) for key, value in given.items())
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)
