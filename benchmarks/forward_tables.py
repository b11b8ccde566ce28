"""Tables of the forward studies, made from kept results alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from comparison import REFERENCE
from forward_study import CONTROLS, ROWS
from tables import METRIC, Claim, Results, claims_table, percent, rewrite, seeds_of, span, verdict

from featstore.evaluate import Column
from featstore_training.recipes import shipped_recipes
from featstore_training.sweep import LOCK

__all__ = ["write_tables"]

POINTS = 6  # of a backfill curve, ends included
SELF = ("raw old", "raw new", "simclr side", "stronger side")
ORDERINGS = (
    Claim("FCT", "old/old < fct", ("fct", "cross"), ("fct", "old")),
    Claim("FCT", "old/old < fct + simclr", ("fct + simclr", "cross"), ("fct + simclr", "old")),
    Claim("FCT", "fct < fct + simclr", ("fct + simclr", "cross"), ("fct", "cross")),
    Claim("FCT", "fct + simclr < new/new", ("fct + simclr", "self"), ("fct + simclr", "cross")),
    Claim("", "fct < fct + stronger side", ("fct + stronger frozen side", "cross"), ("fct", "cross")),
    Claim("control", "permuted < fct + simclr", ("fct + simclr", "cross"), ("fct + permuted simclr", "cross")),
    Claim("control", "simclr alone < fct + simclr", ("fct + simclr", "cross"), ("fct of simclr alone", "cross")),
    Claim(
        "control",
        "fct + old trunk's raw feature < fct + simclr",
        ("fct + simclr", "cross"),
        ("fct + old trunk's raw feature", "cross"),
    ),
    Claim(
        "control",
        "stronger side alone < fct + stronger side",
        ("fct + stronger frozen side", "cross"),
        ("fct of stronger side alone", "cross"),
    ),
    Claim("FastFill", "fct < fastfill, nothing backfilled", ("fastfill", "cross"), ("fct", "cross")),
    Claim(
        "FastFill",
        "area of fastfill: random < uncertainty",
        ("fastfill", "area uncertainty"),
        ("fastfill", "area random"),
    ),
    Claim(
        "FastFill",
        "area of fastfill + simclr: random < uncertainty",
        ("fastfill + simclr", "area uncertainty"),
        ("fastfill + simclr", "area random"),
    ),
    Claim(
        "FastFill",
        "area: fct, random < fastfill, uncertainty",
        ("fastfill", "area uncertainty"),
        ("fct", "area random"),
    ),
    Claim("SLERP", "procrustes < slerp", ("slerp", "cross"), ("procrustes", "cross")),
    Claim("Local Drift-Adapters", "procrustes < local", ("local", "cross"), ("procrustes", "cross")),
    Claim("ours", "procrustes < posterior", ("posterior", "cross"), ("procrustes", "cross")),
    Claim("ours", "ridge < ridge, adjoint", ("ridge, adjoint", "cross"), ("ridge", "cross")),
    Claim("ours", "procrustes < ridge, adjoint", ("ridge, adjoint", "cross"), ("procrustes", "cross")),
    Claim("", "mapped queries < mapped gallery, ridge", ("ridge of gallery", "cross"), ("ridge", "cross")),
    Claim("", "ridge of gallery < fct", ("fct", "cross"), ("ridge of gallery", "cross")),
)


def write_tables(
    page: Path,
    name: str,
    folders: Mapping[str, Path],
    *,
    backward: Mapping[str, Path] = MappingProxyType({}),
    others: Mapping[str, Mapping[str, Path]] = MappingProxyType({}),
) -> None:
    """Put the tables of a data set into their places on a page.

    Args:
        page: What is rewritten.
        name: Of the data set.
        folders: Its grounds, by kind of test.
        backward: The same grounds of the backward study, whose best method gets a row.
        others: Grounds with another old model, by what that is and kind of test.
    """
    tables = {f"{name} {test}": _cells(folder, backward.get(test)) for test, folder in folders.items()}
    tables |= {f"{name} {test} areas": _areas(folder) for test, folder in folders.items()}
    tables[f"{name} orderings"] = claims_table(dict(folders), ORDERINGS)
    for other, grounds in others.items():
        tables |= {f"{name} {test} {other}": _cells(folder, None) for test, folder in grounds.items()}
    rewrite(page, tables)


def _best_backward(folder: Path) -> str | None:
    """The method that validation rows prefer among those that were run on every seed; test rows choose nothing."""
    scores = {
        method: _validated(folder, method)
        for method in shipped_recipes()
        if method != REFERENCE and seeds_of(folder, method) and seeds_of(folder, method) == seeds_of(folder, REFERENCE)
    }
    return max(scores, key=scores.__getitem__, default=None)


def _validated(folder: Path, method: str) -> float:
    """The validation score of a method's locked recipe; where its recipe was locked elsewhere, of the runs themselves."""
    lock = folder / "sweeps" / method / LOCK
    if lock.is_file():
        return float(json.loads(lock.read_text(encoding="utf-8"))["trials"][0]["validation"]["score"])
    return float(np.mean([_about(folder, method, seed)["validation"]["score"] for seed in seeds_of(folder, method)]))


def _cells(folder: Path, backward: Path | None) -> str:
    """One line a row: what it finds, and what it costs."""
    results = Results(folder, [REFERENCE, *SELF, *ROWS])
    if REFERENCE not in results.seeds:
        return "Not run yet."
    lines = [
        "| | mAP | − old/old | verdict | R@1 | what runs for a query | gallery rows rewritten | bytes read a row | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def line(label: str, method: str, role: str, costs: str, source: Results = results) -> None:
        found = source.of(method)
        if found is None:
            return
        value = found.estimate({Column(method, f"{role} {METRIC}"): 1})
        recall = found.estimate({Column(method, f"{role} recall@1"): 1})
        difference, said = "", ""
        # a map of the side alone was measured beside the side, not beside old/old
        if role == "cross" and found.has(Column(method, f"old {METRIC}")) and "alone" not in method:
            change = found.estimate({Column(method, f"cross {METRIC}"): 1, Column(method, f"old {METRIC}"): -1})
            difference, said = span(change, "+"), verdict(change)
        seeds = len(source.seeds[method])
        lines.append(
            f"| {label} | {span(value)} | {difference} | {said} | {percent(recall.value)} | {costs} | {seeds} |"
        )

    line("old/old", REFERENCE, "old", "old encoder | none | ")
    line("new/new", REFERENCE, "self", "new encoder | all, images read | ")
    line("new/old, nothing done", REFERENCE, "cross", "new encoder | none | ")
    if backward and (best := _best_backward(backward)):
        label = f"best backward method by validation: {best}"
        line(label, best, "cross", "new encoder, trained for it | none | ", Results(backward, [best]))
    for method in SELF:
        line(f"{method} on itself", method, "self", " | | ")
    for method in ROWS:
        if method in results.seeds:
            about = _about(folder, method)
            rewritten, read = ("all", str(about["bytes_a_row"])) if about["mapped"] == "gallery" else ("none", "")
            line(_label(method), method, "cross", f"{' + '.join(about['query_time'])} | {rewritten} | {read}")
    return "\n".join(lines)


def _areas(folder: Path) -> str:
    """Areas under the backfill curve from the mapped gallery to the new one, in both conventions."""
    rows = ("fct", "fct + simclr", "fct + stronger frozen side", "fastfill", "fastfill + simclr")
    results = Results(folder, rows)
    lines = [
        "| gallery before | order | mean of 6 points | trapezoid | uncertainty − random | rank correlation | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in rows:
        found = results.of(method)
        if found is None:
            continue
        for order in ("random", "uncertainty", "distance"):
            area = Column(method, f"area {order} {METRIC}")
            if not found.has(area):
                continue
            ends = {Column(method, f"area {end} {METRIC}"): -0.5 / (POINTS - 1) for end in ("first", "last")}
            change = correlation = ""
            if order == "uncertainty":
                random = Column(method, f"area random {METRIC}")
                change = span(found.estimate({area: 1, random: -1}), "+")
                values = [
                    _about(folder, method, seed)["validation"]["uncertainty_correlation"]
                    for seed in results.seeds[method]
                ]
                correlation = f"{np.mean(values):+.2f}"
            mean, trapezoid = found.estimate({area: 1}), found.estimate({area: POINTS / (POINTS - 1), **ends})
            shown = f"{span(mean)} | {span(trapezoid)} | {change} | {correlation} | {len(results.seeds[method])}"
            lines.append(f"| {method} | {_order(order)} | {shown} |")
    return "\n".join(lines) if len(lines) > 2 else "Not run yet."


def _about(folder: Path, method: str, seed: int | None = None) -> dict[str, Any]:
    number = seeds_of(folder, method)[0] if seed is None else seed
    with np.load(folder / "results" / f"{method}-{number}.npz") as held:
        about: dict[str, Any] = json.loads(str(held["about"]))
    return about


def _label(method: str) -> str:
    return method if method not in CONTROLS else f"control: {method}"


def _order(name: str) -> str:
    return {"random": "random", "uncertainty": "uncertainty", "distance": "true distance (needs the new features)"}[
        name
    ]
