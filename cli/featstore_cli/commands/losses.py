"""`featstore losses`."""

from __future__ import annotations

import json

import rich_click as click

from featstore_cli.base import Command
from featstore_cli.options import json_option
from featstore_cli.render import out, print_json, print_table


@click.command(cls=Command)
@click.argument("name", metavar="[LOSS]", required=False)
@json_option
def losses(name: str | None, as_json: bool) -> None:
    """List the training objectives and the adapters.

    With a name: its equation and its settings, given to `featstore train` as --set params.NAME=VALUE.
    """
    from featstore_training import adapter_infos, loss_info
    from featstore_training import losses as known
    from featstore_training.adapters import is_adapter

    if name is None:
        found = [*known(), *adapter_infos()]
    elif is_adapter(name):
        found = [info for info in adapter_infos() if info.name == name.partition(":")[0]]
    else:
        found = [loss_info(name)]
    if as_json:
        print_json([info._asdict() for info in found])
        return
    for info in found:
        lines = [info.summary, f"[dim]{info.paper}[/]", f"[dim]reads {', '.join(info.needs) or 'no cached column'}[/]"]
        if info.forms:
            lines.append(f"[dim]forms {', '.join(f'{info.name}:{form}' for form in info.forms)}[/]")
        out.print(f"[bold]{info.name:12}[/] " + f"\n{'':13}".join(lines))
    if name:
        out.print("\n" + found[0].equation, markup=False)
        default = {key: json.dumps(value) for key, value in found[0].params.items()}
        rows = [[f"params.{key}", default[key], text] for key, text in found[0].meaning.items()]
        if rows:
            out.print()
            print_table(["setting", "default", "meaning"], rows, left=3)
