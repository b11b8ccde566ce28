"""The report as Markdown, for a pull request or a wiki: the verdict, the table, and how it was measured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from featstore.report import numbers
from featstore.report.words import CROSS_CHANGE, OLD, ROLES, compared, default_title, outcome, printable, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from featstore.evaluate import EvalResult

__all__ = ["to_markdown"]

_NO_BACKTICK = {ord("`"): "'"}
_ICONS = {"good": "✅", "bad": "❌", "open": "❔", "plain": "ℹ️"}
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~&]|(?<!\w)@|:(?=//)|(?<=www)\.")


def to_markdown(result: EvalResult, *, title: str | None = None) -> str:
    """The result as GitHub-flavoured Markdown; names are escaped.

    Args:
        result: What was found; one read from JSON will do.
        title: Heading.
    """
    found = verdict(result)
    lines = [
        f"# {_text(title or default_title(result))}",
        "",
        f"{_ICONS[found.style]} **{found.word}.** {found.heading}",
        "",
        _text(found.sentence),
    ]
    lines += [part for note in found.notes for part in ("", _text(note))]
    lines += ["", *_cells(result)]
    if compared(result):
        lines += ["", *_changes(result)]
    lines += ["", *_method(result), ""]
    return printable("\n".join(lines))


def _cells(result: EvalResult) -> list[str]:
    metrics = list(result.cells[0].metrics)
    rows = [_row(["%, 95 % interval", *map(_text, metrics)]), _row([":--", *["--:"] * len(metrics)])]
    for cell in result.cells:
        name = f"**{_text(cell.role)}**" + (" (unrelated spaces)" if cell.unrelated else "")
        values = []
        for metric in metrics:
            span = numbers.span(cell.interval.get(metric))
            values.append(f"{numbers.percent(cell.metrics[metric])}" + (f" ({span})" if span else ""))
        rows.append(_row([name, *values]))
    meanings = [f"{cell.role}: {ROLES[cell.role]}" for cell in result.cells if ROLES.get(cell.role)]
    return [*rows, "", _text("; ".join(meanings) + ".")] if meanings else rows


def _changes(result: EvalResult) -> list[str]:
    rows = [_row(["points, 95 % interval", "new/old − old/old", "", "update gain"]), _row([":--", "--:", ":--", ":--"])]
    for metric, change in result.differences[CROSS_CHANGE].items():
        style, word = outcome(compatible=result.compatible[metric])
        gain, reason = result.update_gain[metric], result.update_gain_reason[metric]
        rows.append(
            _row(
                [
                    _text(metric),
                    _text(numbers.difference(change)),
                    f"{_ICONS[style]} {word}",
                    _text(reason or "") if gain is None else f"{100 * gain:.0f} %",
                ]
            )
        )
    return rows


def _method(result: EvalResult) -> list[str]:
    protocol = result.protocol
    cell = result.cells[0]
    sets = dict.fromkeys(ref for cell in result.cells for ref in (cell.query, cell.gallery))
    queries = f"{numbers.count(cell.n_queries)} queries in {numbers.count(protocol.classes)} classes"
    skipped = f"{numbers.count(cell.n_skipped)} without a right answer skipped"
    lines = [
        f"Protocol: {_text(protocol.kind)}; {queries} ({skipped}), gallery of {numbers.count(protocol.gallery.used)} rows.",
        f"Filters: queries {_code(protocol.query_where)}; gallery {_code(protocol.gallery_where)}.",
        f"Sets: {_code(sets)}.",
        f"Score: {_text(protocol.score)}. Ties: {_text(protocol.ties)}.",
    ]
    if protocol.bootstrap:
        resampled = f"{numbers.count(protocol.bootstrap)} bootstrap resamples of classes and their queries"
        lines.append(f"Intervals: {resampled}, seed {protocol.seed}; differences to {OLD} are paired.")
    else:
        lines.append("Intervals: none, no bootstrap was asked for.")
    lines += [f"{_text(metric)}: {_text(formula)}." for metric, formula in protocol.conventions.items()]
    return [f"- {line}" for line in lines]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no table cell, no link, no mention."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def _code(texts: Iterable[str]) -> str:
    """Names as code; a backtick, which would end it, becomes an apostrophe."""
    return ", ".join(f"`{' '.join(text.split()).translate(_NO_BACKTICK)}`" for text in texts) or "none"
