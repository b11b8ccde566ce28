"""`featstore log` and `featstore tag`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click
from rich.markup import escape

from featstore_cli.base import Command
from featstore_cli.options import examples, json_option, store_option
from featstore_cli.render import amount, out, print_json

if TYPE_CHECKING:
    from featstore.store import Store


_SHOWN = 60  # digests are for --json


@click.command(cls=Command)
@click.argument("what", metavar="DATASET|SET")
@json_option
@store_option
@examples("featstore log cars", "featstore log cars/old")
def log(store: Store, what: str, as_json: bool) -> None:
    """List the versions of a dataset or a feature set.

    Newest first, with their tags and what made them. Any of them is read as cars/old@2 or cars/old@TAG.
    """
    versions = store.history(what)
    if as_json:
        print_json([version.model_dump(mode="json") for version in versions])
        return
    for version in versions:
        tags = f" [cyan]{' '.join(version.tags)}[/]" if version.tags else ""
        out.print(f"[bold]{what}@{version.number}[/]  {version.created}  {amount(version.rows, 'rows')}{tags}")
        for move in version.moves:
            out.print(f"    [cyan]{move.tag}[/] {move.created}  {escape(move.note or '')}")
        made = [f"{key} {value}" for key, value in version.provenance.items() if isinstance(value, str | int)]
        out.print(f"    [dim]{', '.join(part for part in made if len(part) <= _SHOWN)}[/]")


@click.command(cls=Command)
@click.argument("set_", metavar="SET")
@click.argument("name", metavar="TAG")
@store_option
@examples("featstore tag cars/old@2 live")
def tag(store: Store, set_: str, name: str) -> None:
    """Let a tag name a version of a feature set.

    The same tag again moves it; every move is kept, so that it can be moved back.
    """
    store.tag(set_, name)
    out.print(f"{set_.partition('@')[0]}@{name} is now {store.features(set_).ref}")
