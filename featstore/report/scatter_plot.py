"""Points in a square with its diagonal: what was there before, and what is there now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from featstore.report.svg import tag, ticks

__all__ = ["Dot", "scatter_plot"]

_SIDE = 400  # side of the view box
_MARGIN = 40
_SINGLE_DOTS = 1000  # so many points keep their own tooltips


class Dot(NamedTuple):
    """One point of a scatter plot, with its tooltip."""

    x: float
    y: float
    tip: str


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

    parts = [tag("rect", x=_MARGIN, y=_MARGIN, width=inside, height=inside, cls="frame")]
    for mark in marks:
        x, y = place(mark, mark)
        parts.append(tag("text", show(mark), x=x, y=_SIDE - _MARGIN + 17, cls="tick"))
        parts.append(tag("text", show(mark), x=_MARGIN - 7, y=y + 4, cls="tick end"))
    (left, bottom), (right, top) = place(0, 0), place(most, most)
    parts.append(tag("line", x1=left, y1=bottom, x2=right, y2=top, cls="reference"))
    parts.append(tag("text", "above the diagonal: better with the new model", x=left, y=top - 10, cls="note"))
    if len(dots) <= _SINGLE_DOTS:
        for dot in dots:
            x, y = place(dot.x, dot.y)
            style = "good" if dot.y > dot.x else "bad" if dot.y < dot.x else "even"
            parts.append(tag("circle", tag("title", dot.tip), cx=x, cy=y, r=4.5, cls=f"point {style}"))
    else:
        for style, some in _by_side(dots).items():
            pixels = dict.fromkeys(tuple(round(value) for value in place(dot.x, dot.y)) for dot in some)
            path = "".join(f"M{x} {y}h0" for x, y in pixels)
            parts.append(tag("path", d=path, cls=f"points {style}"))
    parts.append(tag("text", x_label, x=_SIDE / 2, y=_SIDE - 4, cls="axis"))
    parts.append(tag("text", y_label, x=12, y=_SIDE / 2, transform=f"rotate(-90 12 {_SIDE / 2:g})", cls="axis"))
    return tag("svg", *parts, cls="scatter", viewBox=f"0 0 {_SIDE} {_SIDE}", role="img", aria_label=describe)


def _by_side(dots: Iterable[Dot]) -> dict[str, list[Dot]]:
    sides: dict[str, list[Dot]] = {"even": [], "bad": [], "good": []}
    for dot in dots:
        sides["good" if dot.y > dot.x else "bad" if dot.y < dot.x else "even"].append(dot)
    return {style: some for style, some in sides.items() if some}
