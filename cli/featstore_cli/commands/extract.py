"""`featstore extract`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import rich_click as click

from featstore_cli.base import Command
from featstore_cli.exit_codes import ExitCode
from featstore_cli.extraction import print_plan, print_report
from featstore_cli.options import (
    engine_option,
    examples,
    json_option,
    pairs,
    rank_of,
    rank_option,
    share,
    store_option,
    typed,
)
from featstore_cli.render import print_json, progress

if TYPE_CHECKING:
    from featstore.store import Store, ZeroRows


@click.command(cls=Command)
@click.argument("source")
@click.option("--dataset", metavar="DATASET", required=True, help="Made when new, extended by images it does not have.")
@click.option(
    "--model", "models", metavar="NAME=MODEL", multiple=True, required=True, help="Feature set and encoder; repeatable."
)
@click.option("--workers", type=click.IntRange(1), help="Processes of one thread each; default: one a core.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Images an encoder sees at once.")
@click.option("--fast", is_flag=True, help="bfloat16, compiled, where each sampled feature keeps a cosine of 0.9999.")
@click.option("--autocast", type=click.Choice(["bf16", "fp16"]), help="Compute in lower precision.")
@click.option("--channels-last", is_flag=True, help="Lay images out channels last.")
@click.option("--compile", "compiled", is_flag=True, help="Compile networks, which takes about a minute.")
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
@rank_option
@engine_option
@click.option(
    "--gpus-per-worker", type=click.FloatRange(0), default=0.0, help="Of a Ray worker, e.g. 0.25; default: 0."
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
    fast: bool,
    autocast: Any,
    channels_last: bool,
    compiled: bool,
    dtype: Any,
    max_failures: str,
    zero_rows: ZeroRows,
    views: int,
    view_seed: int,
    augment: tuple[str, ...],
    canary: int,
    rank: str | None,
    engine: Literal["local", "ray"],
    gpus_per_worker: float,
    dry_run: bool,
    price_per_hour: float | None,
    as_json: bool,
) -> int:
    """Encode images once into shared feature sets.

    SOURCE is a folder of images (its class folders become labels), a CSV or parquet table, webdataset tars, a saved
    Hugging Face dataset or an array of images, here or in an object store; docs/reference/sources.md has the notation.
    Every image is read and decoded once for all models.

    MODEL is run:FOLDER, python:MODULE:FACTORY, timm:NAME, hf:FOLDER, onnx:FILE or export:FILE.pt2;
    docs/reference/encoders.md has them all. --fast says what it chose and how near features stay to float32's, and the
    feature set keeps that.

    --views also encodes random views of every image, the same for all models; training can pair them row by row.

    Several machines share the work when each runs the same command as a rank of its own: under torchrun, in a Slurm array or
    an indexed Kubernetes job by itself, else with --rank.

    The same command again resumes, adds images that are new, or finds everything cached. Images that cannot be used are
    recorded with the reason (`featstore show DATASET/NAME`) and the command exits with 3.

    An image whose bytes this store has encoded in the same space before, in any dataset, is copied instead of encoded.
    """
    from featstore.encoders import Augment, Numerics
    from featstore.errors import UsageError
    from featstore.extract import ExtractRequest, plan_extraction
    from featstore.extract import extract as extract_images

    if price_per_hour is not None and not dry_run:
        raise UsageError("--price-per-hour belongs to --dry-run", hint="add --dry-run, or leave the price out")
    with progress() as listener:
        request = ExtractRequest(
            source=source,
            dataset=dataset,
            models=pairs(models, option="--model", example="old=run:models/old"),
            workers=workers,
            batch=batch,
            fast=fast,
            numerics=Numerics(autocast=autocast, channels_last=channels_last, compile=compiled),
            dtype=dtype,
            max_failures=share(max_failures, option="--max-failures"),
            zero_rows=zero_rows,
            views=views,
            view_seed=view_seed,
            augment=Augment(**typed(augment, option="--augment", example="flip=false")),
            canary=canary,
            rank=rank_of(rank, listener),
            engine=engine,
            gpus_per_worker=gpus_per_worker,
        )
        if dry_run:
            plan = plan_extraction(store, request, price_per_hour=price_per_hour, progress=listener)
        else:
            report = extract_images(store, request, progress=listener)
    if as_json:
        print_json((plan if dry_run else report).model_dump(mode="json"))
    elif dry_run:
        print_plan(plan)
    else:
        print_report(report)
    return ExitCode.FINISHED_WITH_FAILURES if not dry_run and report.failed else ExitCode.DONE
