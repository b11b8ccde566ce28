"""An evaluation on the terminal: cells, what an upgrade changes, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore_cli.render import out, print_table

if TYPE_CHECKING:
    from featstore.evaluate import Backfill, Cell, Estimated, EvalResult, GateResult

__all__ = ["print_result"]

_VERDICT = {True: "[green]compatible[/]", False: "[red]not compatible[/]", None: "[yellow]undecided[/]"}
_MOST_COLUMNS = 4


def print_result(result: EvalResult, gates: list[GateResult]) -> None:
    """The cells, the differences that the verdict rests on, flips and chain scores, the verdict, and the gates."""
    _print_cells(result)
    for role, verdicts in result.criterion.items():
        _print_change(result, role, verdicts)
    _print_other_changes(result)
    _print_flips(result)
    if result.chain and len(result.criterion) > 1:
        _print_chain(result)
    for curve in result.backfill:
        _print_curve(result, curve)
    if result.thresholds:
        _print_thresholds(result)
    for role, reason in result.left_out.items():
        out.print(f"[dim]{role} was left out: {reason}[/]")
    if len(result.runs) > 1:
        out.print(f"[dim]means over {len(result.runs)} runs; intervals cover runs, classes and queries[/]")
    if result.verdict:
        out.print()
        out.print(f"[bold]{result.verdict}[/]")
    for gate in gates:
        out.print(
            f"gate {'[green]passed[/]' if gate.passed else '[red]not passed[/]'}: {gate.expression} ({gate.reason})"
        )


def _print_cells(result: EvalResult) -> None:
    names = list(result.cells[0].metrics)
    if len(result.cells) > _MOST_COLUMNS:  # a row for each cell: a chain has many
        print_table(["%", *names], [[_called(cell), *(_value(cell, name) for name in names)] for cell in result.cells])
    else:
        header = ["%", *(_called(cell) for cell in result.cells)]
        print_table(header, [[name, *(_value(cell, name) for cell in result.cells)] for name in names])
    out.print("[dim]means with 95 % intervals[/]")
    width = max(len(cell.role) for cell in result.cells)
    for cell in result.cells:
        maps = [f"queries through {cell.query_map}"] if cell.query_map else []
        maps += [f"gallery through {cell.gallery_map}"] if cell.gallery_map else []
        counts = f"{cell.n_queries:,} queries, {cell.n_skipped:,} skipped"
        out.print(f"[dim]{cell.role:>{width}}: {cell.query} → {cell.gallery}, {', '.join([counts, *maps])}[/]")
        for metric, threshold in cell.thresholds.items():
            out.print(f"[dim]{'':>{width}}  {metric} accepts scores of {threshold:.6f} and more[/]")
    for note in dict.fromkeys([*result.protocol.notes, *(text for cell in result.cells for text in cell.warnings)]):
        out.print(f"[dim]note: {note}[/]")


def _print_change(result: EvalResult, role: str, verdicts: dict[str, bool | None]) -> None:
    name, change = next(item for item in result.differences.items() if item[0].startswith(f"{role} - "))
    reasons = set(result.update_gain_reason.values()) if role == result.subject else set()
    reason = reasons.pop() if len(reasons) == 1 else None  # one for all metrics
    with_gain = role == result.subject and reason is None
    rows = [
        [metric, _points(change[metric]), _VERDICT[decided], *([_gain(result, metric)] if with_gain else [])]
        for metric, decided in verdicts.items()
    ]
    out.print()
    print_table(["", name.replace(" - ", " − "), "", *(["update gain"] if with_gain else [])], rows)
    if reason:
        out.print(f"[dim]no update gain: {reason}[/]")


def _gain(result: EvalResult, metric: str) -> str:
    gain = result.update_gain[metric]
    if gain is None:
        return f"[dim]{result.update_gain_reason[metric]}[/]"
    interval = result.update_gain_interval[metric]
    return f"{gain:.2f}" + (f" [dim]{interval[0]:.2f} … {interval[1]:.2f}[/]" if interval else "")


def _print_other_changes(result: EvalResult) -> None:
    """The headline of the differences that are no cross-test: what a full backfill brings, and the reference."""
    shown = [
        [name.replace(" - ", " − "), _points(changes[result.headline])]
        for name, changes in result.differences.items()
        if name.partition(" - ")[0] not in result.criterion
    ]
    if shown:
        out.print()
        print_table(["", f"{result.headline}, points"], shown)


def _print_flips(result: EvalResult) -> None:
    flips = result.flips.get(result.subject or "", {})
    if not flips:
        return
    rows = [
        [metric, *(_percent(value) for value in (found.nfr, found.pfr)), f"{found.relative_nfr.value:.2f}"]
        for metric, found in flips.items()
    ]
    out.print()
    print_table([f"% of queries, {result.subject}", "broken", "repaired", "relative NFR"], rows)


def _print_chain(result: EvalResult) -> None:
    chain = result.chain
    if chain is None:
        return
    rows = [
        [
            metric,
            f"{chain.ac[metric].value:.2f}",
            *(_points(score[metric]) for score in (chain.bc, chain.fc)),
            _percent(chain.am[metric]),
        ]
        for metric in chain.matrix
    ]
    out.print()
    print_table(["chain", "AC (strict)", "BC", "FC", "AM %"], rows)


def _print_curve(result: EvalResult, curve: Backfill) -> None:
    metric = result.headline
    broken = next(iter(curve.nfr), None)
    rows = []
    for place, fraction in enumerate(curve.fractions):
        row = [f"{100 * fraction:.0f} %", _percent(curve.metrics[metric][place])]
        rows.append([*row, _percent(curve.nfr[broken][place])] if broken else row)
    for name, area in (("area, trapezoid", curve.area_trapezoid), ("area, mean", curve.area_mean)):
        rows.append([name, _percent(area[metric]), *([""] if broken else [])])
    out.print()
    out.print(f"[bold]backfill from {curve.start} to {curve.end}, order: {curve.label}[/]")
    print_table(["", f"{metric} %", *([f"broken, {broken} %"] if broken else [])], rows)


def _print_thresholds(result: EvalResult) -> None:
    roles = list(result.thresholds[0].kept)
    header = ["thresholds", *(text for role in roles for text in (role, "TPR %"))]
    rows = []
    for item in result.thresholds:
        row = [f"{item.asked}{'' if item.resolved else ' (below one pair)'}"]
        for role in roles:
            row += [f"{item.kept[role].threshold:.5f}", f"{100 * item.kept[role].tpr:.2f}"]
        rows.append(row)
    out.print()
    print_table(header, rows)
    today = result.thresholds[0].before
    out.print(
        f"[dim]score thresholds that accept no more wrong pairs than the one of {today}; TPR: right pairs accepted[/]"
    )


def _called(cell: Cell) -> str:
    return cell.role + (" (unrelated)" if cell.unrelated else "")


def _value(cell: Cell, metric: str) -> str:
    low, high = cell.interval.get(metric, (None, None))
    return _with_span(cell.metrics[metric], low, high)


def _percent(found: Estimated) -> str:
    return _with_span(found.value, found.low, found.high)


def _points(found: Estimated) -> str:
    return _with_span(found.value, found.low, found.high, form="+.1f", joint=" … ")


def _with_span(value: float, low: float | None, high: float | None, *, form: str = ".1f", joint: str = "–") -> str:
    """A fraction in percent, and its interval where there is one."""
    if low is None or high is None:
        return f"{100 * value:{form}}"
    return f"{100 * value:{form}} [dim]{100 * low:{form}}{joint}{100 * high:{form}}[/]"
