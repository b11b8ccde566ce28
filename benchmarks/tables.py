"""Tables for a page of the documentation, made from kept results alone, so that nobody types numbers.

A page holds a place for each table: `<!-- table NAME -->` … `<!-- end -->`; what stands between is replaced.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from comparison import REFERENCE
from numpy.typing import NDArray

from featstore.evaluate import Column, Estimate, Resampled, Run
from featstore_training.sweep import LOCK

RESAMPLES = 1000
METRIC = "map"  # the headline
ROLES = ("old", "cross", "self", "area")
Chosen = Callable[["Kept"], NDArray[np.bool_]]


@dataclass(frozen=True)
class Kept:
    """One run's file.

    Attributes:
        values: float64 [Q] by `ROLE METRIC`.
        classes: Name of the class of each query [Q].
        old_saw: Whether the old model was trained on that class [Q].
        about: Settings and the like.
    """

    values: dict[str, NDArray[np.float64]]
    classes: NDArray[np.str_]
    old_saw: NDArray[np.bool_]
    about: dict[str, Any]


@cache
def kept(path: Path) -> Kept:
    """Read a run's file."""
    with np.load(path) as held:
        codes = held["classes"]
        values = {name: held[name].astype(np.float64) for name in held if name.split()[0] in ROLES}
        return Kept(values, held["class_names"][codes], held["old_saw"][codes], json.loads(str(held["about"])))


def seeds_of(folder: Path, method: str) -> tuple[int, ...]:
    """Seeds that a method has results of."""
    found = (re.fullmatch(rf"{re.escape(method)}-(\d+)", path.stem) for path in folder.glob("results/*.npz"))
    return tuple(sorted(int(match[1]) for match in found if match))


class Results:
    """The kept results of a ground, resampled over seeds × classes × queries, all methods of the same seeds together.

    Args:
        folder: Of the ground.
        methods: Which rows.
        chosen: Which queries count.
    """

    def __init__(self, folder: Path, methods: Iterable[str], chosen: Chosen | None = None) -> None:
        self.folder = folder
        self.seeds = {method: seeds for method in methods if (seeds := seeds_of(folder, method))}
        self._chosen = chosen
        self._of: dict[tuple[int, ...], Resampled | None] = {}

    def of(self, *methods: str) -> Resampled | None:
        """Means over the seeds that all of these methods have; None without any."""
        if not self.seeds.keys() >= set(methods):
            return None
        shared = tuple(sorted(set.intersection(*(set(self.seeds[method]) for method in methods))))
        if shared not in self._of:
            having = [method for method, own in self.seeds.items() if set(shared) <= set(own)]
            self._of[shared] = _resampled(self.folder, having, shared, self._chosen) if shared else None
        return self._of[shared]

    def width(self, method: str) -> int:
        """Of the method's new features."""
        path = self.folder / "results" / f"{method}-{self.seeds[method][0]}.npz"
        return int(kept(path).about["widths"]["new"])

    def queries(self, method: str) -> int:
        """Over all seeds."""
        paths = (self.folder / "results" / f"{method}-{seed}.npz" for seed in self.seeds[method])
        return sum(len(kept(path).classes) for path in paths)


def _resampled(folder: Path, methods: list[str], seeds: Sequence[int], chosen: Chosen | None) -> Resampled | None:
    files = {seed: {m: kept(folder / "results" / f"{m}-{seed}.npz") for m in methods} for seed in seeds}
    names = np.unique(np.concatenate([files[seed][methods[0]].classes for seed in seeds]))
    columns: dict[Column, None] = {}
    runs = []
    for seed in seeds:
        found = {Column(m, name): values for m, file in files[seed].items() for name, values in file.values.items()}
        columns = dict.fromkeys(found)
        first = files[seed].get(REFERENCE, files[seed][methods[0]])
        rows = ~np.isnan(np.stack(list(found.values()))).any(axis=0)
        if chosen:
            rows &= chosen(first)
        if rows.any():
            codes = np.searchsorted(names, first.classes[rows])
            runs.append(Run(np.stack([values[rows] for values in found.values()], axis=1), codes))
    return Resampled.of(list(columns), runs, resamples=RESAMPLES, seed=0) if runs else None


def scenario_table(folder: Path, rows: Sequence[str], width: int) -> str:
    """One line a method: cross against old/old, self against the reference."""
    results = Results(folder, rows)
    if REFERENCE not in results.seeds:
        return "Not run yet."
    lines = [
        "| | cross | − old/old | verdict | self | − reference | update gain | cross R@1 | self R@1 | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    reference = results.of(REFERENCE)
    assert reference
    old = reference.estimate({Column(REFERENCE, f"old {METRIC}"): 1})
    old_recall = reference.estimate({Column(REFERENCE, "old recall@1"): 1})
    lines.append(f"| old/old | {span(old)} | | | | | | {percent(old_recall.value)} | | {_count(results, REFERENCE)} |")
    lines += [_line(method, found, results, width) for method in rows if (found := results.of(method))]
    return "\n".join(lines)


def _line(method: str, found: Resampled, results: Results, width: int) -> str:
    own = Column(method, f"self {METRIC}")
    own_width = results.width(method)
    name = (
        method
        if own_width == width or method.startswith(("raw", "ridge", "procrustes"))
        else f"{method} (width {own_width})"
    )
    cells = ["", "", "", "", "", "", "", ""]
    cells[3] = span(found.estimate({own: 1}))
    cells[7] = percent(found.estimate({Column(method, "self recall@1"): 1}).value)
    with_reference = found.has(Column(REFERENCE, f"self {METRIC}"))
    if with_reference and method != REFERENCE:
        cells[4] = span(found.estimate({own: 1, Column(REFERENCE, f"self {METRIC}"): -1}), "+")
    if found.has(Column(method, f"cross {METRIC}")):
        cross, old = Column(method, f"cross {METRIC}"), Column(method, f"old {METRIC}")
        difference = found.estimate({cross: 1, old: -1})
        cells[0], cells[1] = span(found.estimate({cross: 1})), span(difference, "+")
        cells[2] = verdict(difference)
        recall = Column(method, "cross recall@1"), Column(method, "old recall@1")
        by_recall = verdict(found.estimate({recall[0]: 1, recall[1]: -1}))
        cells[6] = f"{percent(found.estimate({recall[0]: 1}).value)} {by_recall}"
        if with_reference and method != REFERENCE:
            cells[5] = _gain(found, cross, old)
    return f"| {name} | {' | '.join(cells)} | {_count(results, method)} |"


def _gain(found: Resampled, cross: Column, old: Column) -> str:
    """(cross − old/old) / (reference − old/old), where the reference is surely better than old."""
    best = Column(REFERENCE, f"self {METRIC}")
    low = found.estimate({best: 1, old: -1}).low
    if low is None or low <= 0:
        return "none: the reference is not surely better than old"
    gain = found.function([cross, old, best], lambda c, o, b: (c - o) / (b - o))
    return f"{gain.value:+.2f}"


def split_table(folder: Path, rows: Sequence[str]) -> str:
    """Cross − old/old of queries whose class the old model saw, and of the others."""
    parts = {
        "class seen by old": Results(folder, rows, lambda file: file.old_saw),
        "not seen by old": Results(folder, rows, lambda file: ~file.old_saw),
    }
    lines = [f"| cross − old/old | {' | '.join(parts)} |", "|---|---|---|"]
    for method in rows:
        cells = []
        for results in parts.values():
            found = results.of(method)
            if found and found.has(Column(method, f"cross {METRIC}")):
                columns = {Column(method, f"cross {METRIC}"): 1.0, Column(method, f"old {METRIC}"): -1.0}
                cells.append(span(found.estimate(columns), "+"))
        if len(cells) == len(parts):
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not run yet."


@dataclass(frozen=True)
class Claim:
    """An ordering that a paper reports, as a question to our data.

    Attributes:
        paper: Who says so.
        text: What they say.
        better, worse: A method and one of `ROLES`; the claim is that the first one's metric is larger.
    """

    paper: str
    text: str
    better: tuple[str, str]
    worse: tuple[str, str]


def claims_table(folders: Mapping[str, Path], claims: Sequence[Claim]) -> str:
    """One line a claim: what all grounds together say of it, and the paired difference in each."""
    methods = sorted({side[0] for claim in claims for side in (claim.better, claim.worse)})
    found = {name: Results(folder, methods) for name, folder in folders.items()}
    lines = ["| paper | claim | here | difference |", "|---|---|---|---|"]
    for claim in claims:
        marks, shown = [], []
        for name, results in found.items():
            together = results.of(claim.better[0], claim.worse[0])
            if together:
                columns = {
                    Column(method, f"{role} {METRIC}"): sign
                    for (method, role), sign in ((claim.better, 1.0), (claim.worse, -1.0))
                }
                difference = together.estimate(columns)
                marks.append(_sign(difference))
                shown.append(f"{name} {span(difference, '+')}")
        lines.append(f"| {claim.paper} | {claim.text} | {_together(marks)} | {'; '.join(shown)} |")
    return "\n".join(lines)


def _together(marks: Sequence[bool | None]) -> str:
    """What several grounds say of a claim."""
    if not marks:
        return "not run"
    counts = {"holds": marks.count(True), "does not hold": marks.count(False), "undecided": marks.count(None)}
    said = [f"{word} in {count}" for word, count in counts.items() if count]
    return said[0].partition(" in ")[0] if len(said) == 1 else ", ".join(said)


def _count(results: Results, method: str) -> str:
    return f"{len(results.seeds[method])}"


def verdict(difference: Estimate) -> str:
    """Of cross − old/old."""
    return {True: "compatible", False: "not compatible", None: "undecided"}[_sign(difference)]


def _sign(difference: Estimate) -> bool | None:
    if difference.low is not None and difference.low > 0:
        return True
    return False if difference.high is not None and difference.high <= 0 else None


def percent(value: float, sign: str = "") -> str:
    """A fraction in percent."""
    return f"{100 * value:{sign}.1f}"


def span(estimate: Estimate, sign: str = "") -> str:
    """A value and its interval in percent."""
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value, sign)
    return f"{percent(estimate.value, sign)} ({percent(estimate.low, sign)} … {percent(estimate.high, sign)})"


def rewrite(page: Path, tables: Mapping[str, str]) -> None:
    """Put tables into their places on a page.

    Raises:
        LookupError: the page has no place for one of them.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        place = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise LookupError(f"{page} has no place '<!-- table {name} -->' … '<!-- end -->'")
        text = place.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    page.write_text(text, encoding="utf-8")


def trials_file(path: Path, folders: Iterable[Path]) -> None:
    """Every trial of every sweep, one line for each seed."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["ground", "method", "chosen", "settings", "seed", "score", "cross", "self", "old_old"])
        for folder in folders:
            for lock in sorted(folder.glob(f"sweeps/*/{LOCK}")):
                for rank, trial in enumerate(json.loads(lock.read_text(encoding="utf-8"))["trials"]):
                    for seed, values in trial["by_seed"].items():
                        numbers = [values.get(key) for key in ("score", "cross_test", "self_test", "old_old")]
                        shown = ["" if number is None else f"{number:.5f}" for number in numbers]
                        chosen = "yes" if rank == 0 else ""
                        writer.writerow(
                            [folder.name, lock.parent.name, chosen, json.dumps(trial["settings"]), seed, *shown]
                        )
