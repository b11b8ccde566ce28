"""`featstore extract`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click

from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import examples, json_option, pairs, share, store_option, typed
from featstore_cli.render import amount, duration, out, print_json, print_table, progress, size

if TYPE_CHECKING:
    from featstore.extract import ExtractPlan, ExtractReport, SetReport, StageReport
    from featstore.store import Store, ZeroRows


@click.command()
@click.argument("source")
@click.option("--dataset", metavar="DATASET", required=True, help="Made when new, extended by images it does not have.")
@click.option(
    "--model", "models", metavar="NAME=MODEL", multiple=True, required=True, help="Feature set and encoder; repeatable."
)
@click.option("--workers", type=click.IntRange(1), help="Processes of one thread each; default: one a core.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Images an encoder sees at once.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Stored type; default: the encoder's own.")
@click.option(
    "--max-failures", metavar="SHARE", default="5%", show_default=True, help="Stop when more images fail: 5% or 0.05."
)
@click.option(
    "--zero-rows",
    type=click.Choice(["error", "keep"]),
    default="error",
    show_default=True,
    help="Features that are zero throughout fail, or are kept.",
)
@click.option(
    "--views", type=click.IntRange(0, 64), default=0, help="Augmented views to cache: sets NAME.v1, NAME.v2, …"
)
@click.option("--view-seed", type=click.IntRange(0), default=0, help="What views are drawn from; default: 0.")
@click.option(
    "--augment", metavar="KEY=VALUE", multiple=True, help="What a view may change: area=[0.3,1], flip=false, angle=10."
)
@click.option(
    "--canary", type=click.IntRange(0, 256), default=16, show_default=True, help="Images kept for `featstore doctor`."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done, how long it takes and what it costs.")
@click.option("--price-per-hour", type=click.FloatRange(0), help="Of a machine, for --dry-run.")
@json_option
@store_option
@examples(
    "featstore extract photos --dataset cars --model old=run:models/old",
    "featstore extract 'rows.csv?label=brand' --dataset shop --model v2=python:my.models:make",
    "featstore extract 's3://bucket/train-{000..127}.tar' --dataset big --model v2=run:models/v2",
    "featstore extract photos --dataset cars --model old=run:models/old --views 2",
    "featstore extract photos --dataset cars --model old=run:models/old --dry-run",
)
def extract(
    store: Store,
    source: str,
    dataset: str,
    models: tuple[str, ...],
    workers: int | None,
    batch: int,
    dtype: Any,
    max_failures: str,
    zero_rows: ZeroRows,
    views: int,
    view_seed: int,
    augment: tuple[str, ...],
    canary: int,
    dry_run: bool,
    price_per_hour: float | None,
    as_json: bool,
) -> int:
    """Encode images once into shared feature sets.

    SOURCE is a folder of images (its class folders become labels), a CSV or parquet table, webdataset tars, a saved
    Hugging Face dataset or an array of images, here or in an object store; docs/reference/sources.md has the notation.
    Every image is read and decoded once for all models. MODEL is run:FOLDER (a run folder) or python:MODULE:FACTORY.

    --views also encodes random views of every image, the same for all models; training can pair them row by row.

    The same command again resumes, adds images that are new, or finds everything cached. Images that cannot be used are
    recorded with the reason (`featstore show DATASET/NAME`) and the command exits with 3.

    An image whose bytes this store has encoded in the same space before, in any dataset, is copied instead of encoded.
    """
    from featstore.encoders import Augment
    from featstore.errors import UsageError
    from featstore.extract import ExtractRequest, plan_extraction
    from featstore.extract import extract as extract_images

    request = ExtractRequest(
        source=source,
        dataset=dataset,
        models=pairs(models, option="--model", example="old=run:models/old"),
        workers=workers,
        batch=batch,
        dtype=dtype,
        max_failures=share(max_failures, option="--max-failures"),
        zero_rows=zero_rows,
        views=views,
        view_seed=view_seed,
        augment=Augment(**typed(augment, option="--augment", example="flip=false")),
        canary=canary,
    )
    if dry_run:
        with progress() as listener:
            found = plan_extraction(store, request, price_per_hour=price_per_hour, progress=listener)
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            _print_plan(found)
        return ExitCode.DONE
    if price_per_hour is not None:
        raise UsageError("--price-per-hour belongs to --dry-run", hint="add --dry-run, or leave the price out")
    with progress() as listener:
        report = extract_images(store, request, progress=listener)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report)
    return ExitCode.FINISHED_WITH_FAILURES if report.failed else ExitCode.DONE


def _print(report: ExtractReport) -> None:
    for made in report.sets.values():
        failed = f", [red]{made.failed:,} failed[/]" if made.failed else ""
        out.print(f"[bold]{made.ref}[/]  {amount(made.rows, 'rows')}{failed}  ({_origin(made)})")
    took = duration(report.seconds)
    if report.encoded:
        rate = f"{report.images_per_second:,.0f} images/s"
        out.print(f"{amount(report.encoded, 'images')} decoded and encoded in {took} ({rate})")
    if report.copied:
        out.print(f"{amount(report.copied, 'images')} not even decoded: the store had their features")
    if not report.encoded and not report.copied:
        out.print(f"cached: nothing to encode ({took})")
    _print_stages(report.stages, report.limit)
    if report.stages:
        out.print(f"{size(report.bytes_read)} read, {size(report.bytes_written)} of features written")
    if report.failed:
        first = next(iter(report.sets.values())).ref.partition("@")[0]
        out.print(f"{amount(report.failed, 'images')} failed; `featstore show {first}` lists why")


def _print_plan(plan: ExtractPlan) -> None:
    new = f", {plan.new:,} of them new" if plan.new < plan.images else ""
    out.print(f"[bold]{plan.dataset}[/]  {amount(plan.images, 'images')} in the source{new}")
    for name, made in plan.sets.items():
        out.print(
            f"  {name}  {amount(made.cached, 'rows')} cached, {made.missing:,} to come ({size(made.bytes)})",
            markup=False,
        )
    if not plan.missing:
        out.print("cached: nothing to encode")
        return
    _print_stages(plan.stages, plan.limit)
    if plan.sample_failed:
        out.print(f"{plan.sample_failed} of {amount(plan.sample, 'images')} tried cannot be used")
    if plan.sample_copied:
        out.print(f"{plan.sample_copied} of {amount(plan.sample, 'images')} tried need no encoding: the store has them")
    out.print(f"about {size(plan.bytes_read)} to read, {size(plan.bytes_written)} to write")
    if plan.seconds is None:
        out.print("none of the images tried can be used, so there is no saying how long it takes")
        return
    rate = f"{plan.images_per_second:,.0f} images/s in {amount(plan.processes * plan.ranks, 'processes')}"
    cost = "" if plan.cost is None else f", costs about {plan.cost:,.2f}"
    out.print(f"{amount(plan.missing, 'images')} take about [bold]{duration(plan.seconds)}[/] ({rate}){cost}")


def _print_stages(stages: list[StageReport], limit: str | None) -> None:
    """Where the time goes, one line a stage."""
    if not stages:
        return
    rows = []
    for stage in stages:
        rate = "" if stage.images_per_second is None else f"{stage.images_per_second:,.0f}"
        mark = "limits" if stage.stage == limit else ""
        rows.append([stage.stage, duration(stage.seconds), f"{stage.share:.0%}", rate, mark])
    print_table(["stage", "process time", "share", "images/s of a process", ""], rows)


def _origin(made: SetReport) -> str:
    """Where the rows of a set come from: `1,204 of 5,000 images copied from cars/old, 3,796 encoded`."""
    if not made.encoded and not made.copied:
        return "cached"
    cached = [f"{made.cached:,} cached"] if made.cached else []
    if not made.copied:
        return ", ".join([f"{made.encoded:,} encoded", *cached])
    copied = sum(made.copied.values())
    names = [f"{name} ({rows:,})" if len(made.copied) > 1 else name for name, rows in sorted(made.copied.items())]
    share = f"{copied:,} of {amount(made.encoded + copied, 'images')} copied from {' and '.join(names)}"
    return ", ".join([share, f"{made.encoded:,} encoded", *cached])
