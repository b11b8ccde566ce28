"""`featstore eval` and `featstore metrics`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from featstore_cli.base import Command
from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import engine_option, examples, json_option, store_option, where_option
from featstore_cli.render import out, print_json, progress

if TYPE_CHECKING:
    from featstore.evaluate import EvalRequest, ScoreKind
    from featstore.store import Store

_REPORTED_RATES = (1e-2, 1e-3, 1e-4)


@click.command("eval", cls=Command)
@click.argument("sets", nargs=-1, metavar="[SET …]")
@click.option("--old", metavar="SET", help="What the gallery is made of now.")
@click.option(
    "--new", metavar="SET", multiple=True, help="What is to search it, then to replace it; repeat for several seeds."
)
@click.option(
    "--reference",
    metavar="SET",
    multiple=True,
    help="The unconstrained new model, for the update gain; one, or per seed.",
)
@click.option("--candidate", metavar="SET", help="The gallery that is to be shipped: new/candidate.")
@click.option("--query-map", type=click.Path(path_type=Path), metavar="RUN", help="Map of the queries: mapped-new/old.")
@click.option(
    "--gallery-map", type=click.Path(path_type=Path), metavar="RUN", help="Map of the gallery: new/mapped-old."
)
@click.option("--side", metavar="SET", multiple=True, help="Side-information that the map takes; repeatable.")
@click.option("--generations", is_flag=True, help="The SETs are a chain of models, oldest first.")
@click.option("--query", metavar="SET", help="One pair only: the queries …")
@click.option("--gallery", metavar="SET", help="… and the gallery.")
@where_option(help_text="Rows to evaluate, e.g. split=test; repeat for 'and'.")
@where_option("--query-where", help_text="Further filter for queries.")
@where_option("--gallery-where", help_text="Further filter for gallery rows.")
@click.option(
    "--protocol",
    metavar="NAME",
    default="retrieval",
    show_default=True,
    help="What answers what. See `featstore metrics --protocols`.",
)
@click.option(
    "--ground-truth", type=click.Path(path_type=Path), metavar="FILE", help="For protocols that have a published one."
)
@click.option(
    "--distractors", metavar="DATASET", help="Its sets of the same names join every gallery, without answers."
)
@click.option(
    "--score",
    type=click.Choice(["cosine", "inner", "euclidean"]),
    default="cosine",
    show_default=True,
    help="What ranks.",
)
@click.option(
    "--widths",
    type=click.Choice(["refuse", "truncate", "pad"]),
    default="refuse",
    show_default=True,
    help="What to do with sets of different widths.",
)
@click.option("--max-memory", metavar="SIZE", default="512M", show_default=True, help="For the evaluation, e.g. 4G.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes for the gallery.")
@engine_option
@click.option("--no-cache", is_flag=True, help="Measure cells again that were measured before.")
@click.option(
    "--metric", "metrics", metavar="NAME", multiple=True, help="Metric to report; repeatable. See `featstore metrics`."
)
@click.option(
    "--backfill",
    metavar="ORDER",
    multiple=True,
    help="Curve over a backfill by ORDER (see `featstore backfill order --help`); none for none. A report has random.",
)
@click.option("--two-index", is_flag=True, help="Curves also for two indexes merged by distance; needs no map.")
@click.option("--backfill-steps", type=click.IntRange(1), default=5, show_default=True, help="Steps of a backfill.")
@click.option(
    "--fpr",
    type=click.FloatRange(0, 1),
    metavar="RATE",
    multiple=True,
    help="Score thresholds that keep this false-positive rate. A report has 1e-2, 1e-3 and 1e-4.",
)
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(-1, 1),
    metavar="SCORE",
    multiple=True,
    help="A threshold in use today: what new one keeps its false-positive rate.",
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
    "featstore eval --old cars/old --new cars/new --query-map runs/odpp",
    "featstore eval --generations cars/v1 cars/v2 cars/v3",
    "featstore eval --query cars/new --gallery cars/new --where split=test",
    "featstore eval --old reid/old --new reid/odpp --protocol reid --query-where split=query",
    "featstore eval --old cars/old --new cars/odpp --gate 'new/old.map > 0.4'",
)
def eval_(
    store: Store,
    sets: tuple[str, ...],
    old: str | None,
    new: tuple[str, ...],
    reference: tuple[str, ...],
    candidate: str | None,
    query_map: Path | None,
    gallery_map: Path | None,
    side: tuple[str, ...],
    generations: bool,
    query: str | None,
    gallery: str | None,
    where: tuple[str, ...],
    query_where: tuple[str, ...],
    gallery_where: tuple[str, ...],
    protocol: str,
    ground_truth: Path | None,
    distractors: str | None,
    score: ScoreKind,
    widths: Literal["refuse", "truncate", "pad"],
    max_memory: str,
    workers: int,
    engine: Literal["local", "ray"],
    no_cache: bool,
    metrics: tuple[str, ...],
    backfill: tuple[str, ...],
    backfill_steps: int,
    two_index: bool,
    fpr: tuple[float, ...],
    thresholds: tuple[float, ...],
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
    unconstrained reference, from caches alone. Without other filters every row is a query against all others. With a map,
    rows are mapped as they are read; of a chain of generations, every newer model searches every older gallery.

    A metric is compatible when the 95 % interval of new/old − old/old lies above zero, not compatible when it lies at
    or below, and undecided otherwise. A gate passes on the interval's bound.
    """
    from featstore.errors import UsageError
    from featstore.evaluate import EvalRequest, evaluate_runs, parse_gate, parse_memory
    from featstore.report import check_destination, write_report
    from featstore_cli.verdict import print_result

    if report is not None:
        check_destination(report)
    if sets and not generations:
        raise UsageError(
            f"{' '.join(sets)}: say what the sets are", hint="--generations before them, or --old SET --new SET"
        )
    if generations and not sets:
        raise UsageError("--generations without sets", hint="featstore eval --generations SET SET …, oldest first")
    parsed = [parse_gate(text) for text in gates]
    request = EvalRequest(
        old=old,
        generations=sets,
        candidate=candidate,
        query_map=query_map,
        gallery_map=gallery_map,
        side=side,
        query=query,
        gallery=gallery,
        where=where,
        query_where=query_where,
        gallery_where=gallery_where,
        protocol=protocol,
        ground_truth=ground_truth,
        distractors=distractors,
        score=score,
        widths=widths,
        max_memory=parse_memory(max_memory),
        workers=workers,
        engine=engine,
        cache=not no_cache,
        metrics=metrics,
        further_metrics=tuple(metric for gate in parsed for metric in gate.metrics),
        backfill=_orders(backfill, wanted=(report is not None or two_index) and not (query or gallery)),
        backfill_steps=backfill_steps,
        two_index=two_index,
        fpr=fpr or (_REPORTED_RATES if report is not None and score == "cosine" else ()),
        thresholds=thresholds,
        allow_unrelated=allow_unrelated,
        bootstrap=bootstrap,
        seed=seed,
    )
    with progress() as listener:
        result = evaluate_runs(store, _runs(request, new, reference), progress=listener)
    judged = [result.gate(text, point=gate_point) for text in gates]
    if report is not None:
        write_report(result, report, store=store, images=images)
    if as_json:
        print_json({**json.loads(result.to_json()), "gates": [gate.model_dump(mode="json") for gate in judged]})
    else:
        print_result(result, judged)
        if report is not None:
            out.print(f"report: {report}")
    return ExitCode.DONE if all(gate.passed for gate in judged) else ExitCode.GATE_NOT_PASSED


def _orders(given: tuple[str, ...], *, wanted: bool) -> tuple[str, ...]:
    """The orders of the curves: those given, else a random one where a report would show it."""
    if given:
        return tuple(order for order in given if order != "none")
    return ("random",) if wanted else ()


def _runs(request: EvalRequest, new: tuple[str, ...], reference: tuple[str, ...]) -> list[EvalRequest]:
    """One request for each seed: sets of the new model, each with its own reference or all with one."""
    from featstore.errors import UsageError

    count = max(len(new), len(reference), 1)
    for option, given in (("--new", new), ("--reference", reference)):
        if len(given) not in (0, 1, count):
            raise UsageError(
                f"{len(given)} × {option} for {count} runs", hint=f"give {option} once, or once for every run"
            )
    return [
        request.model_copy(
            update={
                "new": new[run % len(new)] if new else None,
                "reference": reference[run % len(reference)] if reference else None,
            }
        )
        for run in range(count)
    ]


@click.command(cls=Command)
@click.option("--protocols", is_flag=True, help="List the protocols instead.")
@json_option
def metrics(protocols: bool, as_json: bool) -> None:
    """List the metrics and their conventions."""
    from featstore.evaluate import METRICS, PROTOCOLS

    if protocols:
        listed = {
            name: (info.description, "needs --ground-truth" if info.needs_ground_truth else "")
            for name, info in PROTOCOLS.items()
        }
    else:
        listed = {name: (info.description, info.convention) for name, info in METRICS.items()}
    if as_json:
        second = "ground_truth" if protocols else "convention"
        print_json({name: {"description": first, second: rest} for name, (first, rest) in listed.items()})
        return
    width = max(map(len, listed))
    for name, (first, rest) in listed.items():
        out.print(f"[bold]{name:{width}}[/] {first}" + (f"\n{'':{width}} [dim]{rest}[/]" if rest else ""))
