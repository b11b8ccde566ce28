"""`featstore backfill order` and `featstore backfill run`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from featstore.amounts import duration, size
from featstore_cli.base import Group
from featstore_cli.options import examples, json_option, share, store_option
from featstore_cli.render import amount, out, print_json, progress

if TYPE_CHECKING:
    from featstore.store import Store
    from featstore_training.upgrade import BackfillReport

_SHOWN = 5


@click.group(cls=Group)
def backfill() -> None:
    """Encode the part of a gallery that gains most, first.

    A gallery whose rows lie in comparable spaces can be backfilled row by row while it is searched: rows of the old model
    beside a compatible new one, or mapped rows beside those of the new model. `featstore eval --backfill ORDER` shows what
    users see on the way.
    """


@backfill.command()
@click.argument("gallery", metavar="SET")
@click.option("--by", "order_", metavar="ORDER", default="random", show_default=True, help="Which rows first.")
@click.option("--seed", default=0, show_default=True, help="Of a random order.")
@click.option("--out", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the ids here, one a line.")
@json_option
@store_option
@examples(
    "featstore backfill order cars/mapped --by uncertainty --out order.txt",
    "featstore backfill order cars/mapped --by k-center",
    "featstore backfill order cars/mapped --by=-popularity",
)
def order(store: Store, gallery: str, order_: str, seed: int, file: Path | None, as_json: bool) -> None:
    """Say in which order rows are backfilled.

    ORDER is random, k-center (rows that no row before is near to), uncertainty (rows whose map trusts itself least, of a
    set that a fastfill map made), prototype-distance (rows far from their class), a column of the dataset, row, or
    @FILE with ids. A minus reverses: -popularity begins with the greatest.
    """
    from featstore.errors import AlreadyExistsError
    from featstore_training.upgrade import backfill_order

    if file is not None and file.exists():
        raise AlreadyExistsError(f"{file} exists", hint="give another --out")
    ids = backfill_order(store, gallery, order_, seed=seed)
    if file is not None:
        file.write_text("".join(f"{text}\n" for text in ids), encoding="utf-8")
    if as_json:
        print_json({"set": gallery, "order": order_, "rows": len(ids), "ids": None if file else ids})
        return
    first = ", ".join(ids[:_SHOWN]) + (" …" if len(ids) > _SHOWN else "")
    out.print(f"{amount(len(ids), 'rows')} of {gallery} by {order_}, first {first}", markup=False)
    if file is not None:
        out.print(f"written to {file}; use it as --by @{file}", markup=False)


@backfill.command()
@click.argument("gallery", metavar="SET")
@click.option(
    "--as", "as_", metavar="DATASET/NAME", required=True, help="The gallery to be written, as its next version."
)
@click.option("--budget", metavar="SHARE", required=True, help="How many of its rows, such as 20%.")
@click.option("--by", "order_", metavar="ORDER", default="random", show_default=True, help="Which rows first.")
@click.option("--seed", default=0, show_default=True, help="Of a random order.")
@click.option("--new", metavar="SET", help="Take new features from this set.")
@click.option("--images", metavar="SOURCE", help="Encode these images instead, with --model.")
@click.option("--model", metavar="MODEL", help="The new encoder.")
@json_option
@store_option
@examples(
    "featstore backfill run cars/mapped --new cars/new --budget 20% --by uncertainty --as cars/gallery",
    "featstore backfill run cars/mapped --images photos --model hf:OWNER/NAME --budget 5% --as cars/gallery",
)
def run(
    store: Store,
    gallery: str,
    as_: str,
    budget: str,
    order_: str,
    seed: int,
    new: str | None,
    images: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Give a share of a gallery's rows their new features.

    Writes the whole gallery as a new version of a set; every row knows which model it is from, and `featstore show` counts
    them. A larger budget later is a further version; images that were encoded before are not encoded again.
    """
    from featstore_training.upgrade import run_backfill

    with progress() as listener:
        report = run_backfill(
            store,
            gallery,
            as_,
            budget=share(budget, option="--budget"),
            order=order_,
            new=new,
            images=images,
            model=model,
            seed=seed,
            progress=listener,
        )
    if as_json:
        print_json(asdict(report))
    else:
        _print(report)


def _print(report: BackfillReport) -> None:
    part = 100 * report.backfilled / report.rows
    done = (
        "is there already" if report.cached else f"written in {duration(report.seconds)}, {size(report.bytes_written)}"
    )
    out.print(f"[green]✓[/] [bold]{report.set}[/] {done}")
    out.print(
        f"  {report.backfilled:,} of {amount(report.rows, 'rows')} ({part:.1f} %) from {report.new} by {report.order}, "
        f"the others from {report.base}"
    )
    if report.encoded:
        out.print(f"  {amount(report.encoded, 'images')} encoded")
    if report.backfilled < report.wanted:
        out.print(f"  [yellow]{report.wanted - report.backfilled:,} fewer than the budget: they have no new feature[/]")
