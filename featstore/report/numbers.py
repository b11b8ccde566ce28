"""Numbers as people read them: fractions become percent, differences become percentage points."""

from __future__ import annotations

import math

from featstore.evaluate import Estimated

__all__ = [
    "MISSING",
    "between",
    "bounded",
    "count",
    "difference",
    "percent",
    "points",
    "rate",
    "score",
    "span",
    "whole",
]

MISSING = "–"


def percent(fraction: float) -> str:
    """A fraction in [0, 1] as percent with one decimal, without the sign: 0.4371 → `43.7`."""
    return MISSING if math.isnan(fraction) else f"{100 * fraction:.1f}"


def whole(fraction: float) -> str:
    """A fraction of any size and sign as whole percent, without the sign of percent: −0.93 → `−93`."""
    return f"{100 * fraction:.0f}".replace("-", "−")


def span(interval: tuple[float, float] | None) -> str:
    """An interval of fractions as percent: `42.6 – 44.8`; empty where there is none."""
    return f"{percent(interval[0])} – {percent(interval[1])}" if interval else ""


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, signed: 0.1204 → `+12.04`.

    What is not zero never reads as zero, because the verdict may hang on it: two digits are kept however small it is.
    """
    if math.isnan(fraction):
        return MISSING
    value = 100 * fraction
    decimals = 2 if value == 0 or abs(value) >= 0.005 else 1 - math.floor(math.log10(abs(value)))
    return f"{value:+.{decimals}f}".replace("-", "−") if value else "0.00"


def between(found: Estimated) -> str:
    """The interval of a difference: `[+11.01, +13.09]`; empty where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"[{points(found.low)}, {points(found.high)}]"


def difference(found: Estimated) -> str:
    """A difference with its interval: `+12.04 [+11.01, +13.09]`."""
    return f"{points(found.value)} {between(found)}".rstrip()


def count(number: int) -> str:
    """A count with thousands separated: `12,345`."""
    return f"{number:,}"


def score(value: float) -> str:
    """A similarity: 0.62345."""
    return f"{value:.4f}".replace("-", "−")


def rate(fraction: float) -> str:
    """A small share: 1.2e-4 reads as `0.012 %`."""
    return f"{100 * fraction:.3g} %"


def bounded(found: Estimated) -> str:
    """A share with its interval, in percent: `27.2 (19.4 – 35.0)`."""
    if found.low is None or found.high is None:
        return percent(found.value)
    return f"{percent(found.value)} ({span((found.low, found.high))})"
