"""`featstore verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import rich_click as click

from featstore.amounts import size
from featstore_cli.base import Command
from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import examples, json_option, share, store_option
from featstore_cli.render import amount, out, print_json, progress

if TYPE_CHECKING:
    from featstore.store import Store


@click.command(cls=Command)
@click.argument("what", metavar="[DATASET|SET]", required=False)
@click.option("--full", is_flag=True, help="Read every byte and compare digests; default: structure and sizes.")
@click.option("--sample", metavar="SHARE", help="Read this share of the shards: 5% or 0.05.")
@json_option
@store_option
@examples("featstore verify", "featstore verify cars/old --full", "featstore verify cars --sample 5%")
def verify(store: Store, what: str | None, full: bool, sample: str | None, as_json: bool) -> int:
    """Check that the store holds what was published.

    Looks at a dataset with its feature sets, at one feature set, or at everything. Exits with 1 if anything is missing
    or damaged, and names the files and rows. Nothing is changed.
    """
    from featstore.store import verify as check

    part = share(sample, option="--sample") if sample is not None else 1.0
    with progress() as listener:
        report = check(store, what, full=full or sample is not None, sample=part, progress=listener)
    if as_json:
        print_json(asdict(report))
    else:
        for problem in report.problems:
            rows = f" (rows {problem.rows[0]:,} to {problem.rows[1] - 1:,})" if problem.rows else ""
            out.print(f"[red]✗[/] {problem.where} {problem.what}{rows}")
        looked = f"{amount(report.shards, 'shards')} of {', '.join(report.names) or 'nothing'}, {size(report.bytes_read)} read"
        if report.problems:
            out.print(f"[red]{amount(len(report.problems), 'problems')}[/] in {looked}")
            out.print(
                "  → `featstore repair` mends what it can; add --from STORE for a second copy, or --images and --model"
            )
        else:
            out.print(f"[green]✓[/] no problem in {looked}")
    return ExitCode.ERROR if report.problems else ExitCode.DONE
