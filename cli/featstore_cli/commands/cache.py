"""`featstore materialise` and `featstore cache`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import rich_click as click

from featstore.amounts import size
from featstore_cli.base import Command, Group
from featstore_cli.options import examples, json_option, store_option
from featstore_cli.render import amount, out, print_json, print_table, progress

if TYPE_CHECKING:
    from featstore.store import Store


@click.command(cls=Command)
@click.argument("sets", metavar="SET...", nargs=-1, required=True)
@json_option
@store_option
@examples("featstore materialise cars/old cars/new", "featstore --store s3://team/store materialise cars/old@live")
def materialise(store: Store, sets: tuple[str, ...], as_json: bool) -> None:
    """Copy feature sets of an object store to this machine.

    Every command that reads them here then does so at the speed of the local disk. Copies are checked against their
    digests as they arrive and kept in $FEATSTORE_CACHE, or ~/.cache/featstore. Interrupted, the same command goes on.
    """
    done = []
    for reference in sets:
        with progress() as listener:
            features, fetched = store.fetch(reference, listener)
        done.append({"set": features.ref, **asdict(fetched)})
        if as_json:
            continue
        if store.files.local:
            out.print(f"[green]✓[/] {features.ref} is on this machine: {store.location}")
            continue
        here = f", {size(fetched.present_bytes)} were here already" if fetched.present_files else ""
        out.print(
            f"[green]✓[/] {features.ref}: {size(fetched.bytes)} in {amount(fetched.files, 'files')} fetched{here}"
        )
    if as_json:
        print_json(done)


@click.group(cls=Group)
def cache() -> None:
    """Show or clear the copies on this machine."""


@cache.command()
@json_option
@examples("featstore cache show")
def show(as_json: bool) -> None:
    """List what is copied to this machine, the last used first."""
    from featstore.store import cache_files, list_cache

    entries = list_cache()
    if as_json:
        print_json({"folder": cache_files().location, "segments": [asdict(entry) for entry in entries]})
        return
    rows = [
        [entry.of, f"{entry.files:,}", size(entry.bytes), f"{datetime.fromtimestamp(entry.used, UTC):%Y-%m-%d}"]
        for entry in entries
    ]
    if rows:
        print_table(["segment", "files", "bytes", "used"], rows)
    out.print(f"{size(sum(entry.bytes for entry in entries))} in {cache_files().location}")


@cache.command()
@click.option("--unused-for", metavar="DAYS", type=float, default=0.0, help="Only what nobody opened for so long.")
@examples("featstore cache clear", "featstore cache clear --unused-for 30")
def clear(unused_for: float) -> None:
    """Delete copies; what is needed again is fetched again."""
    from featstore.store import clear_cache

    out.print(f"{size(clear_cache(unused_for))} freed")
