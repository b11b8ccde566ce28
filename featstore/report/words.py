"""What the numbers mean, in words that every format of the report shares."""

from __future__ import annotations

import re
from typing import NamedTuple

from featstore.evaluate import EvalResult
from featstore.report.numbers import count, percent, points, span

__all__ = [
    "CROSS",
    "CROSS_CHANGE",
    "OLD",
    "ROLES",
    "Verdict",
    "compared",
    "default_title",
    "outcome",
    "printable",
    "verdict",
]

OLD, CROSS = "old/old", "new/old"
CROSS_CHANGE = f"{CROSS} - {OLD}"
"""The key of the difference that the verdict is about."""

ROLES = {
    OLD: "old queries, old gallery: what there is today",
    CROSS: "new queries, old gallery: the new model without backfill",
    "new/new": "new queries, new gallery: after backfill",
    "reference": "the new model trained without compatibility",
    "query/gallery": "",
}

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Verdict(NamedTuple):
    """What to tell first.

    Attributes:
        style: `good`, `bad`, `open`, or `plain` where nothing was compared.
        word: One or two words.
        heading: What follows from it.
        sentence: The numbers behind it.
        notes: What a reader has to know before acting on it.
    """

    style: str
    word: str
    heading: str
    sentence: str
    notes: list[str]


def outcome(*, compatible: bool | None) -> tuple[str, str]:
    """(style, words) of a metric's verdict."""
    if compatible is None:
        return "open", "undecided"
    return ("good", "compatible") if compatible else ("bad", "not compatible")


def compared(result: EvalResult) -> bool:
    """Whether old and new were compared, so that there is a verdict."""
    return bool(result.compatible)


def default_title(result: EvalResult) -> str:
    """The heading of a report that was given none."""
    return "Compatibility report" if compared(result) else "Evaluation report"


def verdict(result: EvalResult) -> Verdict:
    """The verdict on the headline metric."""
    if not compared(result):
        return _measured(result)
    metric = result.headline
    style, word = outcome(compatible=result.compatible[metric])
    heading = {
        "good": "New queries search the old gallery better than old queries do.",
        "bad": "New queries do not search the old gallery better than old queries do.",
        "open": "It is open whether new queries search the old gallery better than old queries do.",
    }[style]
    change = result.differences[CROSS_CHANGE][metric]
    old, cross = (percent(result.cell(role).metrics[metric]) for role in (OLD, CROSS))
    sentence = (
        f"{metric}: {cross} % with new queries on the old gallery, {old} % with old queries, a difference of "
        f"{points(change.value)} percentage points"
    )
    if change.low is None or change.high is None:
        sentence += ", without an interval because no bootstrap was asked for."
    else:
        sentence += f" (95 % interval {points(change.low)} to {points(change.high)})."
    return Verdict(style, word.capitalize(), heading, sentence, _notes(result))


def _measured(result: EvalResult) -> Verdict:
    cell = result.cells[0]
    metric = result.headline
    interval = f", 95 % interval {span(cell.interval[metric])}" if metric in cell.interval else ""
    return Verdict(
        "plain",
        "Measured",
        f"{metric} is {percent(cell.metrics[metric])} %{interval}.",
        f"{count(cell.n_queries)} queries of {cell.query} against the gallery {cell.gallery}. "
        "Old and new were not compared, so there is no verdict.",
        [],
    )


def _notes(result: EvalResult) -> list[str]:
    notes = []
    headline = result.compatible[result.headline]
    others: dict[str, list[str]] = {}
    for metric, found in result.compatible.items():
        if found != headline:
            others.setdefault(outcome(compatible=found)[1], []).append(metric)
    if others:
        groups = "; ".join(f"{word}: {', '.join(metrics)}" for word, metrics in others.items())
        notes.append(f"Not every metric agrees ({groups}).")
    if result.cell(CROSS).unrelated:
        notes.append("Nothing declares the old and the new space comparable; they were compared all the same.")
    return notes


def printable(text: str) -> str:
    """The text with control characters, half characters and direction overrides replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)
