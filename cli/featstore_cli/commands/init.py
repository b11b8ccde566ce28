"""`featstore init`."""

from __future__ import annotations

import rich_click as click

from featstore_cli.base import Command
from featstore_cli.render import out


@click.command(cls=Command)
@click.argument("path", required=False)
@click.pass_context
def init(ctx: click.Context, path: str | None) -> None:
    """Make a store.

    PATH defaults to the folder .featstore here; commands below this folder find it by themselves. Nothing happens to a
    store that is there already.
    """
    from featstore.store import Store

    store = Store.init(path or ctx.find_root().obj)
    out.print(f"store: {store.location}")
