"""Two distributions over one axis: the scores of right pairs and of wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from featstore.report.svg import tag, ticks

if TYPE_CHECKING:
    from featstore.evaluate import Distribution

__all__ = ["histogram_plot"]

_WIDTH, _HEIGHT = 400, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 22, 26
_MOST_BINS = 64


def histogram_plot(
    scores: Distribution, *, threshold: tuple[float, str] | None, describe: str, show: Callable[[float], str]
) -> Markup:
    """Shares of the positive and of the negative pairs by score; each outline has the same area.

    Args:
        scores: Counts in bins of equal width.
        threshold: Where a line is drawn, and what it is called.
        describe: What the picture shows, for readers who do not see it.
        show: How a tick's value is written.
    """
    low, high = scores.low, scores.high
    marks = [mark for mark in ticks(low, high, about=5) if low <= mark <= high]
    edges, *heights = _densities(scores)
    top = max(max(values) for values in heights) or 1.0

    def across(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    bottom = _HEIGHT - _BOTTOM
    parts = [tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, cls="grid")]
    for mark in marks:
        edge = 0.04 * (high - low)  # so near an edge a centred text would be cut
        anchor = "start" if mark < low + edge else "end" if mark > high - edge else ""
        parts.append(tag("text", show(mark), x=across(mark), y=bottom + 18, cls=f"tick {anchor}"))
    for name, values in zip(("negatives", "positives"), heights, strict=True):
        steps = [f"M{across(edges[0]):g} {bottom:g}"]
        for place, value in enumerate(values):
            y = round(bottom - value / top * (bottom - _TOP), 1)
            steps.append(f"L{across(edges[place]):g} {y:g}L{across(edges[place + 1]):g} {y:g}")
        steps.append(f"L{across(edges[-1]):g} {bottom:g}Z")
        parts.append(tag("path", d="".join(steps), cls=name))
    if threshold is not None and low <= threshold[0] <= high:
        x = across(threshold[0])
        side = "end" if x > _WIDTH / 2 else "start"
        parts.append(tag("line", x1=x, x2=x, y1=_TOP - 8, y2=bottom, cls="reference"))
        parts.append(tag("text", threshold[1], x=x + (-5 if side == "end" else 5), y=_TOP - 8, cls=f"tick {side}"))
    return tag("svg", *parts, cls="histogram", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=describe)


def _densities(scores: Distribution) -> tuple[list[float], list[float], list[float]]:
    """Edges of at most `_MOST_BINS` wider bins, and the densities of negatives and positives in them."""
    count = len(scores.positives)
    starts = np.arange(0, count, -(-count // _MOST_BINS))
    edges = scores.low + (scores.high - scores.low) / count * np.append(starts, count)

    def density(counts: Sequence[int]) -> list[float]:
        summed = np.add.reduceat(np.array(counts, np.float64), starts)
        found: list[float] = (summed / np.diff(edges) / max(summed.sum(), 1)).tolist()
        return found

    return edges.tolist(), density(scores.negatives), density(scores.positives)
