"""`featstore repair`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click as plain
import rich_click as click

from featstore_cli.base import Command
from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import examples, json_option, open_store, pairs
from featstore_cli.render import amount, out, print_json, progress

if TYPE_CHECKING:
    from featstore.store import RepairReport

_SHOWN_IDS = 10


@click.command(cls=Command)
@click.argument("what", metavar="[DATASET|SET]", required=False)
@click.option("--from", "copy", metavar="STORE", help="A second copy of the store: a folder or a URL.")
@click.option("--images", metavar="SOURCE", help="Encode damaged rows again from these images.")
@click.option("--model", "models", metavar="NAME=MODEL", multiple=True, help="The encoder that made a set; repeatable.")
@click.option("--give-up", is_flag=True, help="Let rows that nothing has count as failed.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
@click.option("--store", "store_path", metavar="PATH", help="The store, if not the nearest .featstore folder.")
@examples(
    "featstore repair",
    "featstore repair cars --from /backup/store",
    "featstore repair cars/old --images photos --model old=run:models/old",
)
def repair(
    what: str | None,
    copy: str | None,
    images: str | None,
    models: tuple[str, ...],
    give_up: bool,
    dry_run: bool,
    as_json: bool,
    store_path: str | None,
) -> int:
    """Mend what verify finds damaged.

    Reads everything like `featstore verify --full`. Files whose exact bytes are still to be had are put back. Rows that can
    only be had otherwise (other rows with the same input in the same space, or encoding the images again) are committed as
    a new version.

    Exits with 1 and names files and rows if something stays damaged.
    """
    from featstore.errors import UsageError
    from featstore.store import repair as mend
    from featstore.store import restore_marker

    if bool(images) != bool(models):
        raise UsageError("--images and --model belong together", hint="give the folder and the encoder of each set")
    address = store_path or plain.get_current_context().find_root().obj
    if address and copy and not dry_run:
        restore_marker(address, copy)
    store = open_store(store_path)
    sources = []
    if images:
        from featstore.extract import EncodeAgain

        sources.append(EncodeAgain(images, pairs(models, option="--model", example="old=run:models/old")))
    with progress() as listener:
        report = mend(store, what, copy=copy, sources=sources, give_up=give_up, dry_run=dry_run, progress=listener)
    if as_json:
        print_json(asdict(report))
    else:
        _print(report)
    return ExitCode.DONE if report.mended else ExitCode.ERROR


def _print(report: RepairReport) -> None:
    would = "would be " if report.dry_run else ""
    if not report.problems:
        out.print("[green]✓[/] nothing is damaged")
    for where, origin in report.restored:
        out.print(f"[green]✓[/] {where} {would}put back bit for bit from {origin}")
    for made in report.replaced:
        origins = ", ".join(f"{amount(rows, 'rows')} from {name}" for name, rows in made.sources.items())
        out.print(
            f"[green]✓[/] [bold]{made.set}[/] rows {made.start:,} to {made.stop - 1:,} {would}replaced"
            + (f" ({origins}; the others were sound)" if origins else " (their features were sound)")
        )
        if made.given_up:
            out.print(f"  [red]{amount(made.given_up, 'rows')} given up:[/] they count as failed")
        if made.digests_lost:
            out.print(
                f"  the input digests of {amount(made.digests_lost, 'rows')} are lost: they will not be copied elsewhere"
            )
    for where, why, ids in report.unmended:
        listed = f": {', '.join(ids[:_SHOWN_IDS])}{' …' if len(ids) > _SHOWN_IDS else ''}" if ids else ""
        out.print(f"[red]✗[/] {where}: {why}{listed}")
    for problem in report.remaining:
        out.print(f"[red]✗[/] {problem.where} {problem.what}")
    if not report.mended:
        out.print("  → a second copy (--from), the images (--images, --model), or --give-up for rows that nobody has")
