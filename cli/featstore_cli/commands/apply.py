"""`featstore apply`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from featstore.amounts import duration
from featstore_cli.base import Command
from featstore_cli.options import engine_option, examples, json_option, rank_of, rank_option, store_option
from featstore_cli.render import amount, out, print_json, progress

if TYPE_CHECKING:
    from featstore.store import Store


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("set_", metavar="SET")
@click.option("--side", metavar="SET", multiple=True, help="Side-information that the map takes; repeat in its order.")
@click.option("--as", "as_", metavar="DATASET/NAME", required=True, help="Feature set to make; the same dataset.")
@click.option(
    "--dtype", type=click.Choice(["float16", "float32"]), default="float32", show_default=True, help="Stored type."
)
@rank_option
@engine_option
@click.option("--workers", type=click.IntRange(1), help="Ray workers; default: one a CPU of the cluster.")
@json_option
@store_option
@examples("featstore apply runs/odpp cars/new --as cars/odpp")
def apply(
    store: Store,
    run: Path,
    set_: str,
    side: tuple[str, ...],
    as_: str,
    dtype: str,
    rank: str | None,
    engine: Literal["local", "ray"],
    workers: int | None,
    as_json: bool,
) -> None:
    """Map a cached feature set into another one.

    RUN is a folder that `featstore train` wrote; SET must lie in the space it was trained on. The gallery streams through
    the map shard by shard; the same command again finishes an interrupted one, or maps only rows that are new.
    """
    from featstore.maps import apply_map

    with progress() as listener:
        report = apply_map(
            store,
            run,
            set_,
            as_,
            side=side,
            dtype=dtype,
            rank=rank_of(rank, listener),
            engine=engine,
            workers=workers,
            progress=listener,
        )
    if as_json:
        print_json(asdict(report))
        return
    if report.left:
        out.print(f"{amount(report.left, 'rows')} of {report.set} are left to other ranks; the last one commits")
        return
    rate = f"{duration(report.seconds)}, {report.rows / max(report.seconds, 1e-9):,.0f} rows/s"
    out.print(
        f"[bold]{report.set}[/]  {amount(report.rows, 'rows')} from {report.source}  ({'cached' if report.cached else rate})"
    )
    if report.uncertainty:
        out.print(f"[bold]{report.uncertainty}[/]  how uncertain each row is: backfill the greatest first")
    if report.invalid:
        out.print(f"{amount(report.invalid, 'rows')} have no feature, as in {report.source}")
