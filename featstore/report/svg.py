"""Elements of inline SVG. Colours come from the page's style sheet, so that they follow the colour scheme."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

__all__ = ["tag", "ticks"]


def tag(name: str, *children: object, cls: str = "", **attributes: object) -> Markup:
    """An element; children and attribute values are escaped. Underscores in attribute names become hyphens."""
    given = {"class": cls, **attributes} if cls else attributes
    written = Markup("").join(Markup(' {}="{}"').format(key.replace("_", "-"), value) for key, value in given.items())
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers at equal steps (1, 2 or 5 times a power of ten) that enclose [low, high]; at least two."""
    width = max(high - low, 1e-6 * max(1.0, abs(high)))
    exact = width / about
    power = 10.0 ** math.floor(math.log10(exact))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= exact * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
