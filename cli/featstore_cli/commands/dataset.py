"""`featstore dataset …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import rich_click as click

from featstore_cli.options import store_option, where_option
from featstore_cli.render import amount, print_table

if TYPE_CHECKING:
    from featstore.store import Store


@click.group()
def dataset() -> None:
    """Split a dataset."""


@dataset.command()
@click.argument("name", metavar="DATASET")
@click.option(
    "--by",
    type=click.Choice(["image", "class"]),
    required=True,
    help="Divide the images of every class, or the classes.",
)
@click.option(
    "--fraction", metavar="A=F,B=F", required=True, help="Share of each part, for example train=0.7,test=0.3."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same split.")
@click.option("--column", default="split", show_default=True, help="Column that gets the part's name.")
@where_option(help_text="Divide these rows only; repeat for 'and'.")
@store_option
def split(
    store: Store,
    name: str,
    by: Literal["image", "class"],
    fraction: str,
    seed: int,
    column: str,
    where: tuple[str, ...],
) -> None:
    """Divide the rows of DATASET at random into named parts.

    The part is written to a column of a new version, which --where filters select: --where split=train. Features stay
    valid: they are aligned by row, never by columns.
    """
    from featstore.store import Categories, parse_fractions, split_dataset

    made = split_dataset(store, name, parse_fractions(fraction), by=by, seed=seed, column=column, where=where)
    parts = made.column(column)
    if isinstance(parts, Categories):
        labels = made.labels.codes
        rows = []
        for part in parse_fractions(fraction):
            chosen = made.select([f"{column}={part}"])
            rows.append(
                [
                    f"{column}={part}",
                    amount(len(chosen), "rows"),
                    amount(len(set(labels[chosen].tolist()) - {-1}), "classes"),
                ]
            )
        print_table([f"{made.name}@{made.version}", "", ""], rows)
