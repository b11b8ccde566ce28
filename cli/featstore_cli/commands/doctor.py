"""`featstore doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from featstore_cli.base import Command
from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import examples, json_option, store_option
from featstore_cli.render import amount, out, print_json

if TYPE_CHECKING:
    from featstore.extract import Diagnosis
    from featstore.store import Store


@click.command(cls=Command)
@click.argument("set_", metavar="SET")
@click.option("--model", metavar="MODEL", help="The encoder; default: the recorded one, if it is not code.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 2),
    default=1e-4,
    show_default=True,
    help="Cosine distance that counts as the same.",
)
@json_option
@store_option
@examples("featstore doctor cars/old", "featstore doctor cars/old --model python:my.models:make")
def doctor(store: Store, set_: str, model: str | None, tolerance: float, as_json: bool) -> int:
    """Encode a few kept inputs again and report drift.

    A set that `featstore extract` made keeps a few of its images. They are encoded with the encoder as it is now and
    compared with the stored features by cosine: another library version or changed weights show at once.

    Exits with 1 when the least cosine is farther from 1 than the tolerance.
    """
    from featstore.extract import doctor as examine

    found = examine(store, set_, model, tolerance=tolerance)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)
    return ExitCode.DONE if found.healthy else ExitCode.ERROR


def _print(found: Diagnosis) -> None:
    for field, then, now in found.identity:
        out.print(f"another encoder: {field} was {_short(then)}, is {_short(now)}", markup=False)
    for line in found.numerics:
        out.print(f"other numerics: {line}", markup=False)
    for id_, why in found.failures.items():
        out.print(f"{id_} gives no feature any more ({why})", markup=False)
    if found.least is None:
        said = "no kept input can be compared"
    else:
        said = f"{amount(found.inputs, 'inputs')} encoded again, least cosine {found.least:.7f}"
    if found.healthy:
        out.print(f"[green]✓[/] [bold]{found.set}[/]  {said}")
        if found.identity:
            out.print("  → the features agree, but extract takes only the recorded encoder; write to another name")
        return
    out.print(f"[red]✗[/] [bold]{found.set}[/]  {said}, beyond the tolerance of {found.tolerance:g}")
    if found.identity:
        out.print(
            "  → this is not the encoder that made the set: give that one with --model, or extract to another name"
        )
    else:
        out.print("  → go back to the library versions above for this set, or extract everything anew to another name")


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:23]}…"
