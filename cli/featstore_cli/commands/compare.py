"""`featstore diff` and `featstore declare`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import rich_click as click

from featstore_cli.base import Command
from featstore_cli.options import examples, json_option, store_option
from featstore_cli.render import amount, out, print_json

if TYPE_CHECKING:
    from featstore.store import Store


@click.command(cls=Command)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@json_option
@store_option
@examples("featstore diff cars/old@1 cars/old", "featstore diff cars/old cars/new", "featstore diff cars@3 cars")
def diff(store: Store, left: str, right: str, as_json: bool) -> None:
    """Say what differs between two versions, sets or datasets.

    Rows are matched by id. Of feature sets, features are compared number by number and spaces field by field; of
    datasets, the columns.
    """
    from featstore.store import compare

    found = compare(store, left, right)
    if as_json:
        content = asdict(found)
        content["fields"] = [field._asdict() for field in found.fields]
        print_json({**content, "equal": found.equal})
        return
    out.print(f"[bold]{found.left}[/] → [bold]{found.right}[/]")
    for kind, sign in (("added", "[green]+[/]"), ("removed", "[red]−[/]"), ("changed", "[yellow]~[/]")):
        count = getattr(found, kind)
        if count:
            out.print(f"{sign} {amount(count, 'rows')} {kind}: {_listed(found.examples[kind], count)}")
    out.print(f"= {amount(found.same, 'rows')} equal")
    if found.changed and found.largest is not None:
        cosine = "" if found.lowest_cosine is None else f", lowest cosine similarity {found.lowest_cosine:.6f}"
        out.print(f"  largest difference of a component {found.largest:.3g}{cosine}")
    for field in found.fields:
        out.print(f"  {field.field}: {field.left} → {field.right}", markup=False)


@click.command(cls=Command)
@click.argument("left", metavar="A")
@click.argument("relation", metavar="compatible-with", type=click.Choice(["compatible-with"]))
@click.argument("right", metavar="B")
@click.option("--note", default="", help="Why, for those who come later.")
@click.option("--withdraw", is_flag=True, help="Take an earlier declaration back.")
@json_option
@store_option
@examples(
    'featstore declare cars/old compatible-with trucks/v1 --note "same weights, other loader"',
    "featstore declare cars/old compatible-with trucks/v1 --withdraw",
)
def declare(
    store: Store,
    left: str,
    relation: Literal["compatible-with"],  # noqa: ARG001 - a word of the sentence
    right: str,
    note: str,
    withdraw: bool,
    as_json: bool,
) -> None:
    """Declare that features of two sets may be compared.

    Write: declare A compatible-with B. It holds for the spaces of both sets, wherever they occur; eval, search and
    appends compare them from then on. What a trained map declares needs no word from you. featstore cannot check it: if it
    is not so, every number that comes of it is noise.
    """
    made = store.declare(left, right, note=note, withdraw=withdraw)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    said = "no longer declared compatible" if withdraw else "declared compatible"
    out.print(f"{made.sets[0]} and {made.sets[1]} are {said}; `featstore show {made.sets[0]}` lists it")


def _listed(ids: list[str], count: int) -> str:
    return ", ".join(ids) + (f", … ({count - len(ids):,} more)" if count > len(ids) else "")
