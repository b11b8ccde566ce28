"""`featstore plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from featstore.amounts import brief, size
from featstore_cli.base import Command
from featstore_cli.options import examples, json_option, share, store_option, where_option
from featstore_cli.render import amount, out, print_json, print_table, progress

if TYPE_CHECKING:
    from featstore.report import Plan, PlanPath
    from featstore.store import Store

_MARK = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]?[/]"}


@click.command(cls=Command)
@click.option("--old", metavar="SET", required=True, help="What users search today.")
@click.option("--new", metavar="SET", required=True, help="The new model, over the same rows.")
@click.option("--side", metavar="SET", multiple=True, help="Side-information for maps that take it; repeatable.")
@click.option(
    "--new-run",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="RUN",
    help="Run that made the new set: FastFill learns from its classifier.",
)
@click.option("--budget", metavar="SHARE", default="20%", show_default=True, help="Images that may be encoded again.")
@click.option(
    "--encoders", type=click.IntRange(1, 2), default=1, show_default=True, help="Encoders that may run on a query."
)
@click.option("--images-per-second", type=float, metavar="N", help="How fast you encode, to tell how long that takes.")
@where_option(help_text="Rows to measure; default: half of the classes.")
@where_option("--query-where", help_text="Further filter for queries.")
@where_option("--gallery-where", help_text="Further filter for gallery rows.")
@where_option("--train-where", help_text="Rows to learn maps on; default: those not measured.")
@click.option("--only", metavar="NAME", multiple=True, help="Try this map only, such as fct; repeatable.")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Default: plans/OLD-NEW.",
)
@click.option("--report", type=click.Path(path_type=Path), metavar="F.html", help="Write the page here too.")
@json_option
@store_option
@examples(
    "featstore plan --old cars/old --new cars/new --report plan.html",
    "featstore plan --old cars/old --new cars/new --side cars/simclr --budget 5%",
    "featstore plan --old cars/old --new cars/new --where split=test",
)
def plan(
    store: Store,
    old: str,
    new: str,
    side: tuple[str, ...],
    new_run: Path | None,
    budget: str,
    encoders: int,
    images_per_second: float | None,
    where: tuple[str, ...],
    query_where: tuple[str, ...],
    gallery_where: tuple[str, ...],
    train_where: tuple[str, ...],
    only: tuple[str, ...],
    folder: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Say how to ship the new model, and what that costs.

    Tries the cheap ways on your own caches: maps of queries, maps of the gallery, compatible heads, a part of the images
    encoded again, two indexes. Prints what each gives against today, with intervals, what it costs, and which to take
    within the budget. Reads no image. Takes minutes; the same command again goes on where it stopped.

    Rows without labels are compared by how much of the new model's own ranking each way keeps. That gives no verdict.
    """
    from featstore.report import check_destination, write_plan
    from featstore_training.upgrade import PlanRequest, make_plan

    if report is not None:
        check_destination(report)
    request = PlanRequest(
        old=old,
        new=new,
        side=side,
        new_run=new_run,
        where=where,
        query_where=query_where,
        gallery_where=gallery_where,
        train_where=train_where,
        budget=share(budget, option="--budget"),
        encoders=encoders,
        images_per_second=images_per_second,
        only=only,
    )
    parts = [reference.replace("/", "-").replace("@", "-") for reference in (old, new)]
    with progress() as listener:
        found = make_plan(store, request, folder or Path("plans") / "-".join(parts), progress=listener)
    if report is not None:
        write_plan(found, report)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _print(found)
    if report is not None:
        out.print(f"report: {report}")


def _print(plan: Plan) -> None:
    rows = [_row(plan, path) for path in plan.paths]
    header = [
        "",
        f"{plan.headline if plan.judged_by == 'labels' else 'agree'} %",
        "95 %",
        "±",
        "",
        "time",
        "rewritten",
        "images",
        "runs",
    ]
    print_table(header, rows)
    costs, marks = f"costs of all {plan.rows:,} rows", "±: points against today"
    if plan.judged_by == "labels":
        classes = f", {amount(plan.classes, 'classes')}"
        marks += ", ✓ surely better, ✗ not, ? undecided"
    else:
        classes = ""
        marks += "; agreement: share of the new model's own first 10 that is found"
    out.print(f"[dim]{amount(plan.queries, 'queries')}{classes}; {costs}; {marks}[/]")
    for name, why in plan.left_out.items():
        out.print(f"[dim]{name} was left out: {why}[/]")
    out.print()
    chosen = plan.lead
    if chosen is None:
        word = "recommended: no way yet" if plan.judged_by == "labels" else "no verdict without labels"
        out.print(f"[bold yellow]{word}[/]  {plan.reason}")
        return
    if plan.recommended:
        out.print(f"[bold green]recommended: {chosen.name}[/]  {chosen.title}")
    else:
        out.print(f"[bold yellow]no verdict without labels; nearest to the new model: {chosen.name}[/]  {chosen.title}")
    out.print(plan.reason)
    for command in chosen.commands:
        out.print(f"  [cyan]{command}[/]")


def _row(plan: Plan, path: PlanPath) -> list[str]:
    value, change = path.value, path.change
    interval = "" if value.low is None or value.high is None else f"{100 * value.low:.1f}–{100 * value.high:.1f}"
    today = path.kind == "today"
    return [
        f"[bold green]{path.name}[/]" if path is plan.lead else path.name,
        f"{100 * value.value:.1f}",
        f"[dim]{interval}[/]",
        "" if today else f"{100 * change.value:+.1f}",
        "" if today or plan.judged_by != "labels" else _MARK[path.compatible],
        brief(path.seconds),
        size(path.gallery_bytes) if path.gallery_bytes else "–",
        f"{path.images:,}" if path.images else "–",
        "1" if path.encoders == 1 else "2",
    ]
