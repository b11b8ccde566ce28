"""`featstore retry-failed`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import rich_click as click

from featstore_cli.base import Command
from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import examples, json_option, store_option
from featstore_cli.render import amount, out, print_json

if TYPE_CHECKING:
    from featstore.store import Store, ZeroRows


@click.command(cls=Command)
@click.argument("what", metavar="SET")
@click.option("--images", metavar="SOURCE", required=True, help="Where the images are, as extract takes it.")
@click.option("--model", metavar="MODEL", required=True, help="The encoder that made the set.")
@click.option(
    "--zero-rows",
    type=click.Choice(["error", "keep"]),
    default="error",
    show_default=True,
    help="Features that are zero throughout fail again, or are kept.",
)
@json_option
@store_option
@examples("featstore retry-failed cars/old --images photos --model run:models/old")
def retry_failed(store: Store, what: str, images: str, model: str, zero_rows: ZeroRows, as_json: bool) -> int:
    """Encode the failed images of a set once more.

    Images that were put right, or could not be reached then, get their feature in a new version; every other row stays
    as it is. Exits with 3 if some still fail.
    """
    from featstore.extract import EncodeAgain
    from featstore.store import retry_failed as again
    from featstore.store.names import parse_set

    source = EncodeAgain(images, {parse_set(what).name: model})
    report = again(store, what, source, zero_rows=zero_rows)
    if as_json:
        print_json(asdict(report))
    elif not report.tried:
        out.print(f"[bold]{report.set}[/]  no row has failed")
    else:
        out.print(
            f"[bold]{report.set}[/]  {report.mended:,} of {amount(report.tried, 'failed rows')} have a feature now"
            + (f", [red]{report.failed:,} still fail[/]; `featstore show {what}` lists why" if report.failed else "")
        )
    return ExitCode.FINISHED_WITH_FAILURES if report.failed else ExitCode.DONE
