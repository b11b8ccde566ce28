"""The report as Markdown, for a pull request or a wiki: the verdict, the table, and how it was measured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from featstore.report import numbers
from featstore.report.words import Subject, default_title, meaning, outcome, printable, subject, verdict

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
    about = subject(result)
    parts = [_cells(result)]
    if about:
        parts += [_changes(result, about), _flips(result), _chain(result), *_backfills(result)]
    parts += [_thresholds(result), _method(result)]
    lines += [line for part in parts if part for line in ("", *part)]
    lines.append("")
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
    meanings = [f"{cell.role}: {meaning(cell)}" for cell in result.cells]
    meanings += [f"{role} was left out: {reason}" for role, reason in result.left_out.items()]
    return [*rows, "", _text("; ".join(meanings) + ".")]


def _changes(result: EvalResult, about: Subject) -> list[str]:
    rows = [_row(["points, 95 % interval", _text(about.name), "", "update gain"]), _row([":--", "--:", ":--", ":--"])]
    for metric, change in result.differences[about.change].items():
        style, word = outcome(compatible=result.criterion[about.role][metric])
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
    for role, verdicts in result.criterion.items():
        if role != about.role:
            style, word = outcome(compatible=verdicts[result.headline])
            change = next(found for name, found in result.differences.items() if name.startswith(f"{role} - "))[
                result.headline
            ]
            found = f"{result.headline} {numbers.difference(change)}"
            rows += ["", f"{_text(role)}: {_ICONS[style]} {word} ({_text(found)})"]
    return rows


def _flips(result: EvalResult) -> list[str]:
    rows = [
        _row([_text(role), _text(metric), *(_text(numbers.bounded(value)) for value in (found.nfr, found.pfr))])
        for role, by_metric in result.flips.items()
        for metric, found in by_metric.items()
    ]
    head = [_row(["% of queries", "in", "broken (NFR)", "repaired"]), _row([":--", ":--", "--:", "--:"])]
    return [*head, *rows] if rows else []


def _chain(result: EvalResult) -> list[str]:
    if result.chain is None or len(result.criterion) < 2:
        return []
    rows = [_row(["chain", "AC", "BC, points", "FC, points", "AM, %"]), _row([":--", "--:", "--:", "--:", "--:"])]
    for metric in result.chain.matrix:
        chain = result.chain
        scores = [f"{chain.ac[metric].value:.2f}", numbers.difference(chain.bc[metric])]
        scores += [numbers.difference(chain.fc[metric]), numbers.bounded(chain.am[metric])]
        rows.append(_row([_text(metric), *map(_text, scores)]))
    return rows


def _backfills(result: EvalResult) -> list[list[str]]:
    metric = result.headline
    found = []
    for curve in result.backfill:
        names = [f"{100 * fraction:g} %" for fraction in curve.fractions]
        points = [numbers.percent(point.value) for point in curve.metrics[metric]]
        areas = [numbers.bounded(area[metric]) for area in (curve.area_trapezoid, curve.area_mean)]
        head = [_text(f"{metric}, backfilled by {curve.label}"), *map(_text, names), "area, trapezoid", "area, mean"]
        found.append([_row(head), _row([":--", *["--:"] * (len(head) - 1)]), _row(["", *points, *map(_text, areas)])])
    return found


def _thresholds(result: EvalResult) -> list[str]:
    rows = [
        _row([_text(item.asked), _text(role), numbers.score(point.threshold), numbers.rate(point.tpr)])
        for item in result.thresholds
        for role, point in item.kept.items()
    ]
    head = [
        _row(["same false-positive rate", "in", "threshold", "right pairs accepted"]),
        _row([":--", ":--", "--:", "--:"]),
    ]
    return [*head, *rows] if rows else []


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
        lines.append(f"Intervals: {resampled}, seed {protocol.seed}; differences are paired.")
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
