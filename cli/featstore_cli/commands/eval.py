"""`featstore eval` and `featstore metrics`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import examples, json_option, store_option, where_option
from featstore_cli.render import out, print_json, print_table, progress

if TYPE_CHECKING:
    from featstore.evaluate import Cell, EvalResult, GateResult
    from featstore.store import Store

_VERDICT = {True: "[green]compatible[/]", False: "[red]not compatible[/]", None: "[yellow]undecided[/]"}


@click.command("eval")
@click.option("--old", metavar="SET", help="What the gallery is made of now.")
@click.option("--new", metavar="SET", help="What is to search it, then to replace it.")
@click.option("--reference", metavar="SET", help="The unconstrained new model, for the update gain.")
@click.option("--query", metavar="SET", help="One pair only: the queries …")
@click.option("--gallery", metavar="SET", help="… and the gallery.")
@where_option(help_text="Rows to evaluate, e.g. split=test; repeat for 'and'.")
@where_option("--query-where", help_text="Further filter for queries.")
@where_option("--gallery-where", help_text="Further filter for gallery rows.")
@click.option(
    "--metric", "metrics", metavar="NAME", multiple=True, help="Metric to report; repeatable. See `featstore metrics`."
)
@click.option(
    "--bootstrap", type=click.IntRange(0), default=2000, show_default=True, help="Resamples for the intervals."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the resampling.")
@click.option("--allow-unrelated", is_flag=True, help="Compare sets whose spaces nothing declares comparable.")
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a report (.html, .md or .json)."
)
@click.option(
    "--images", type=click.Path(path_type=Path), metavar="FOLDER", help="Where ids are files: report thumbnails."
)
@click.option(
    "--gate", "gates", metavar="EXPR", multiple=True, help="Exit 4 unless it holds, e.g. 'new/old.map > old/old.map'."
)
@click.option("--gate-point", is_flag=True, help="Judge gates by the point estimate, not the interval.")
@json_option
@store_option
@examples(
    "featstore eval --old cars/old --new cars/odpp --where split=test",
    "featstore eval --query cars/new --gallery cars/new --where split=test",
    "featstore eval --old cars/old --new cars/odpp --gate 'new/old.map > 0.4'",
)
def eval_(
    store: Store,
    old: str | None,
    new: str | None,
    reference: str | None,
    query: str | None,
    gallery: str | None,
    where: tuple[str, ...],
    query_where: tuple[str, ...],
    gallery_where: tuple[str, ...],
    metrics: tuple[str, ...],
    bootstrap: int,
    seed: int,
    allow_unrelated: bool,
    report: Path | None,
    images: Path | None,
    gates: tuple[str, ...],
    gate_point: bool,
    as_json: bool,
) -> int:
    """Compare old and new models and give a verdict.

    Compares old queries on the old gallery (old/old), new queries on the old gallery (new/old), new on new, and the
    unconstrained reference, from caches alone. Without other filters every row is a query against all others.

    A metric is compatible when the 95 % interval of new/old − old/old lies above zero, not compatible when it lies at
    or below, and undecided otherwise. A gate passes on the interval's bound.
    """
    from featstore.evaluate import EvalRequest, evaluate, parse_gate
    from featstore.report import check_destination, write_report

    if report is not None:
        check_destination(report)
    parsed = [parse_gate(text) for text in gates]
    wanted = metrics or EvalRequest.model_fields["metrics"].default
    request = EvalRequest(
        old=old,
        new=new,
        reference=reference,
        query=query,
        gallery=gallery,
        where=where,
        query_where=query_where,
        gallery_where=gallery_where,
        metrics=tuple(dict.fromkeys([*wanted, *(metric for gate in parsed for metric in gate.metrics)])),
        allow_unrelated=allow_unrelated,
        bootstrap=bootstrap,
        seed=seed,
    )
    with progress() as listener:
        result = evaluate(store, request, progress=listener)
    judged = [result.gate(text, point=gate_point) for text in gates]
    if report is not None:
        write_report(result, report, store=store, images=images)
    if as_json:
        print_json({**json.loads(result.to_json()), "gates": [gate.model_dump(mode="json") for gate in judged]})
    else:
        _print(result, judged)
        if report is not None:
            out.print(f"report: {report}")
    return ExitCode.DONE if all(gate.passed for gate in judged) else ExitCode.GATE_NOT_PASSED


@click.command()
@json_option
def metrics(as_json: bool) -> None:
    """List the metrics and their conventions."""
    from featstore.evaluate import METRICS

    if as_json:
        print_json(
            {name: {"description": info.description, "convention": info.convention} for name, info in METRICS.items()}
        )
        return
    for name, info in METRICS.items():
        out.print(f"[bold]{name:12}[/] {info.description}\n{'':12} [dim]{info.convention}[/]")


def _value(cell: Cell, metric: str) -> str:
    low, high = cell.interval.get(metric, (None, None))
    span = "" if low is None or high is None else f" [dim]{100 * low:.1f}–{100 * high:.1f}[/]"
    return f"{100 * cell.metrics[metric]:.1f}{span}"


def _print(result: EvalResult, gates: list[GateResult]) -> None:
    names = list(result.cells[0].metrics)
    header = ["%", *(cell.role + (" (unrelated)" if cell.unrelated else "") for cell in result.cells)]
    print_table(header, [[name, *(_value(cell, name) for cell in result.cells)] for name in names])
    out.print("[dim]means with 95 % intervals[/]")
    for cell in result.cells:
        out.print(
            f"[dim]{cell.role:>9}: {cell.query} → {cell.gallery}, {cell.n_queries:,} queries, {cell.n_skipped:,} skipped[/]"
        )
    change = result.differences.get("new/old - old/old", {})
    if change:
        out.print()
        rows = []
        for name in names:
            d = change[name]
            span = "" if d.low is None or d.high is None else f" [dim]{100 * d.low:+.1f} … {100 * d.high:+.1f}[/]"
            gain = result.update_gain.get(name)
            why = result.update_gain_reason.get(name)
            rows.append(
                [
                    name,
                    f"{100 * d.value:+.1f}{span}",
                    _VERDICT[result.compatible[name]],
                    f"{gain:.2f}" if gain is not None else f"[dim]{why}[/]",
                ]
            )
        print_table(["", "new/old − old/old", "", "update gain"], rows)
    if result.verdict:
        out.print()
        out.print(f"[bold]{result.verdict}[/]")
    for gate in gates:
        out.print(
            f"gate {'[green]passed[/]' if gate.passed else '[red]not passed[/]'}: {gate.expression} ({gate.reason})"
        )
