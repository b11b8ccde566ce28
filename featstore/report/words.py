"""What the numbers mean, in words that every format of the report shares."""

from __future__ import annotations

import re
from typing import NamedTuple

from featstore.evaluate import Cell, EvalResult
from featstore.evaluate.compatibility import baseline, deciding, is_own
from featstore.report.numbers import count, difference, percent, points, span

__all__ = ["Subject", "Verdict", "default_title", "meaning", "outcome", "printable", "subject", "verdict"]

_ROLES = {
    "old/old": "old queries, old gallery: what there is today",
    "new/old": "new queries, old gallery: the new model without backfill",
    "mapped-new/old": "new queries through a map, old gallery: without backfill",
    "new/mapped-old": "new queries, old gallery through a map: no image is encoded again",
    "new/candidate": "new queries, the gallery that is to be shipped",
    "mapped-new/candidate": "new queries through a map, the gallery that is to be shipped",
    "new/new": "new queries, new gallery: after backfill",
    "reference": "the new model trained without compatibility",
}

_HEADINGS = {
    "new/old": {
        "good": "New queries search the old gallery better than old queries do.",
        "bad": "New queries do not search the old gallery better than old queries do.",
        "open": "It is open whether new queries search the old gallery better than old queries do.",
    },
    "mapped-new/old": {
        "good": "New queries through the map search the old gallery better than old queries do.",
        "bad": "New queries through the map do not search the old gallery better than old queries do.",
        "open": "It is open whether new queries through the map search the old gallery better than old queries do.",
    },
    "new/mapped-old": {
        "good": "New queries search the mapped gallery better than old queries search the old one.",
        "bad": "New queries do not search the mapped gallery better than old queries search the old one.",
        "open": "It is open whether new queries search the mapped gallery better than old queries search the old one.",
    },
}
_HEADINGS["new/candidate"] = _HEADINGS["mapped-new/candidate"] = {
    "good": "New queries search the candidate gallery better than old queries search the old one.",
    "bad": "New queries do not search the candidate gallery better than old queries search the old one.",
    "open": "It is open whether new queries search the candidate gallery better than old queries search the old one.",
}
_CHAIN_HEADINGS = {
    "good": "Every newer model searches every older gallery better than the gallery's own model does.",
    "bad": "Some newer model does not search some older gallery better than the gallery's own model does.",
    "open": "It is open whether every newer model searches every older gallery better than its own model does.",
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


class Subject(NamedTuple):
    """The comparison that the verdict is about.

    Attributes:
        role: The cross-test.
        before: The cell it has to beat.
        change: The key of their difference.
        name: The difference as people read it.
    """

    role: str
    before: str
    change: str
    name: str


def subject(result: EvalResult) -> Subject | None:
    """What the verdict is about; None when no models were compared."""
    before = baseline(result.subject) if result.subject else None
    if result.subject is None or before is None:
        return None
    return Subject(result.subject, before, f"{result.subject} - {before}", f"{result.subject} − {before}")


def meaning(cell: Cell) -> str:
    """What a cell is, in words."""
    query, _, gallery = cell.role.partition("/")
    sets = f"{cell.query} → {cell.gallery}"
    if cell.role in _ROLES:
        return _ROLES[cell.role]
    return f"{query} on its own gallery: {cell.query}" if query == gallery else sets


def outcome(*, compatible: bool | None) -> tuple[str, str]:
    """(style, words) of a metric's verdict."""
    if compatible is None:
        return "open", "undecided"
    return ("good", "compatible") if compatible else ("bad", "not compatible")


def default_title(result: EvalResult) -> str:
    """The heading of a report that was given none."""
    return "Compatibility report" if subject(result) else "Evaluation report"


def verdict(result: EvalResult) -> Verdict:
    """The verdict on the headline metric."""
    about = subject(result)
    if about is None:
        return _measured(result)
    metric = result.headline
    style, word = outcome(compatible=result.compatible[metric])
    heading = _HEADINGS.get(about.role, _CHAIN_HEADINGS)[style]
    change = result.differences[about.change][metric]
    before, after = (percent(result.cell(role).metrics[metric]) for role in (about.before, about.role))
    sentence = (
        f"{metric}: {after} % in {about.role}, {before} % in {about.before}, a difference of {points(change.value)} "
        "percentage points"
    )
    if change.low is None or change.high is None:
        sentence += ", without an interval because no bootstrap was asked for."
    else:
        sentence += f" (95 % interval {points(change.low)} to {points(change.high)})."
    return Verdict(style, word.capitalize(), heading, sentence, _notes(result, about))


def _measured(result: EvalResult) -> Verdict:
    cell = result.cells[0]
    metric = result.headline
    if result.protocol.is_proxy:
        found = ", ".join(f"{percent(cell.metrics[metric])} % in {cell.role}" for cell in result.cells[:-1])
        return Verdict(
            "plain",
            "Agreement",
            f"{metric}: {found}.",
            f"{count(cell.n_queries)} queries. What the newest model finds on its own gallery counts as right, which says how "
            "much of its ranking is kept and not whether it is right, so there is no verdict.",
            [],
        )
    interval = f", 95 % interval {span(cell.interval[metric])}" if metric in cell.interval else ""
    return Verdict(
        "plain",
        "Measured",
        f"{metric} is {percent(cell.metrics[metric])} %{interval}.",
        f"{count(cell.n_queries)} queries of {cell.query} against the gallery {cell.gallery}. "
        "Old and new were not compared, so there is no verdict.",
        [],
    )


def _notes(result: EvalResult, about: Subject) -> list[str]:
    notes = []
    headline = result.compatible[result.headline]
    others: dict[str, list[str]] = {}
    for metric, found in result.compatible.items():
        if found != headline:
            others.setdefault(outcome(compatible=found)[1], []).append(metric)
    if others:
        groups = "; ".join(f"{word}: {', '.join(metrics)}" for word, metrics in others.items())
        notes.append(f"Not every metric agrees ({groups}).")
    tests = deciding(result.criterion, about.role)
    if len(tests) > 1:
        passed = sum(result.criterion[role][result.headline] is True for role in tests)
        notes.append(f"{passed} of {len(tests)} cross-tests pass in {result.headline}.")
    for name, changes in result.differences.items():
        after, _, before = name.partition(" - ")
        change = changes[result.headline]
        if is_own(after) and is_own(before) and change.low is not None and change.low <= 0:
            notes.append(
                f"The newer model is not surely better even on its own gallery ({name.replace(' - ', ' − ')}: "
                f"{difference(change)} points)."
            )
    if any(result.cell(role).unrelated for role in result.criterion):
        notes.append("Nothing declares the spaces of two models comparable; they were compared all the same.")
    return notes


def printable(text: str) -> str:
    """The text with control characters, half characters and direction overrides replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)
