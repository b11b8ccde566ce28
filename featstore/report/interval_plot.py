"""Values with their intervals, one row each.

The plot has no view box: positions across are percentages, so that it fills any width with text of one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from featstore.report.svg import tag, ticks

__all__ = ["Interval", "interval_plot"]

_ROW = 46  # height of one row, in pixels
_AXIS = 24


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
        parts.append(tag("line", x1=across(mark), x2=across(mark), y1=0, y2=height, cls="grid"))
        parts.append(tag("text", show(mark), x=across(mark), y=height + 18, cls=f"tick {_anchor(mark, marks)}"))
    if band:
        width = f"{100 * (band[1] - band[0]) / (high - low):.2f}%"
        parts.append(tag("rect", x=across(band[0]), width=width, y=0, height=height, cls="band"))
    parts.append(tag("line", x1=across(reference), x2=across(reference), y1=0, y2=height, cls="reference"))
    for number, row in enumerate(rows):
        top, middle = _ROW * number, _ROW * number + 30
        parts.append(tag("text", row.label, x=0, y=top + 16, cls="name"))
        parts.append(tag("text", row.text, x="100%", y=top + 16, cls="value end"))
        if row.ends:
            left, right = (across(end) for end in row.ends)
            parts.append(tag("line", x1=left, x2=right, y1=middle, y2=middle, cls=f"whisker {row.style}"))
        dot = f"dot {row.style} hollow" if row.hollow else f"dot {row.style}"
        parts.append(tag("circle", cx=across(row.value), cy=middle, r=6, cls=dot))
    return tag("svg", *parts, cls="intervals", height=height + _AXIS, role="img", aria_label=describe)


def _anchor(mark: float, marks: Sequence[float]) -> str:
    return "start" if mark == marks[0] else "end" if mark == marks[-1] else ""
