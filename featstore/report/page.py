"""The HTML page: one file without scripts or anything to load, everything from outside escaped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import featstore
from featstore.errors import UsageError
from featstore.evaluate import metric_info
from featstore.report import figures, numbers, tables
from featstore.report.examples import find_examples
from featstore.report.templating import template
from featstore.report.words import default_title, meaning, outcome, printable, subject, verdict

if TYPE_CHECKING:
    from pathlib import Path

    from featstore.evaluate import Estimated, EvalResult
    from featstore.report.words import Subject
    from featstore.store import FeatureSet, Store

__all__ = ["to_html"]


@dataclass(frozen=True, slots=True)
class _Gain:
    """One metric of the update gain."""

    metric: str
    arrived: Estimated
    possible: Estimated | None
    gain: float | None
    interval: tuple[float, float] | None
    reason: str | None
    scores: tuple[Estimated, ...] | None


def to_html(
    result: EvalResult, *, store: Store | None = None, images: Path | None = None, title: str | None = None
) -> str:
    """The page as text; see `write_report`."""
    about = subject(result)
    metrics = list(result.cells[0].metrics)
    page = template("report.html").render(
        title=title or default_title(result),
        version=featstore.__version__,
        result=result,
        verdict=verdict(result),
        about=about,
        outcome=outcome,
        metrics={metric: metric_info(metric)[0].description for metric in metrics},
        meaning=meaning,
        heat=tables.heat_table(result),
        table={cell.role: tables.cell_values(result, cell) for cell in result.cells},
        direction=tables.direction,
        cells_plot=figures.cells_plot(result) if len(result.cells) > 1 else None,
        changes_plot=figures.changes_plot(result, about) if about else None,
        gains=_gains(result, about) if about else [],
        same_reason=_same_reason(result),
        extremes=tables.extremes(result.changes) if result.changes else None,
        classes_plot=figures.classes_plot(result, about) if about else None,
        curves_plot=figures.curves_plot(result, about),
        histograms=figures.histograms(result),
        examples=find_examples(result, about, store, images) if about and store and _ranks_rows(result) else None,
        sets=_sets(result, store),
        numbers=numbers,
    )
    return printable(page)


def _ranks_rows(result: EvalResult) -> bool:
    """Whether single queries can be shown with what they find."""
    try:
        return result.evidence.measure.ranks_rows
    except UsageError:  # read from JSON
        return False


def _gains(result: EvalResult, about: Subject) -> list[_Gain]:
    arrived = result.differences[about.change]
    possible = result.differences.get(f"reference - {about.before}", {})

    def scores(metric: str) -> tuple[Estimated, ...] | None:
        found = [which.get(metric) for which in (result.p_up, result.p_comp, result.p_1)]
        return tuple(score for score in found if score is not None) or None

    return [
        _Gain(
            metric,
            arrived[metric],
            possible.get(metric),
            gain,
            result.update_gain_interval.get(metric),
            result.update_gain_reason[metric],
            scores(metric),
        )
        for metric, gain in result.update_gain.items()
    ]


def _same_reason(result: EvalResult) -> str | None:
    """Why no metric has an update gain, when the reason is one and the same."""
    reasons = set(result.update_gain_reason.values())
    return reasons.pop() if len(reasons) == 1 else None


def _sets(result: EvalResult, store: Store | None) -> list[tuple[str, FeatureSet | None]]:
    references = dict.fromkeys(ref for cell in result.cells for ref in (cell.query, cell.gallery))
    return [(ref, store.features(ref) if store else None) for ref in references]
