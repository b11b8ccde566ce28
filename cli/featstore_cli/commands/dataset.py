"""`featstore dataset …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from featstore_cli.base import Group
from featstore_cli.options import examples, json_option, store_option, where_option
from featstore_cli.render import amount, out, print_json, print_table, progress

if TYPE_CHECKING:
    from featstore.store import Store


@click.group(cls=Group)
def dataset() -> None:
    """Split a dataset, add columns to it, or say where its files are."""


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
@json_option
@store_option
@examples(
    "featstore dataset split cars --by class --fraction train=0.5,test=0.5",
    "featstore dataset split cars --by class --fraction old=0.3,more=0.7 --column era --where split=train",
)
def split(
    store: Store,
    name: str,
    by: Literal["image", "class"],
    fraction: str,
    seed: int,
    column: str,
    where: tuple[str, ...],
    as_json: bool,
) -> None:
    """Divide the rows of DATASET at random into named parts.

    The part is written to a column of a new version, which --where filters select: --where split=train. Features stay
    valid: they are aligned by row, never by columns.
    """
    from featstore.store import parse_fractions, split_dataset

    parts = parse_fractions(fraction)
    before = store.dataset(name)
    with progress() as listener:
        made = split_dataset(store, name, parts, by=by, seed=seed, column=column, where=where)
        if column in before.column_names and not where:
            listener.note(f"column '{column}' was there; what it held is in {before.name}@{before.version}")
    labels = made.labels.codes
    chosen = {part: made.select([f"{column}={part}"]) for part in parts}
    classes = {part: len(set(labels[rows].tolist()) - {-1}) for part, rows in chosen.items()}
    if as_json:
        counts = {part: {"rows": len(rows), "classes": classes[part]} for part, rows in chosen.items()}
        print_json({"dataset": f"{made.name}@{made.version}", "column": column, "parts": counts})
        return
    rows = [
        [f"{column}={part}", amount(len(rows), "rows"), amount(classes[part], "classes")]
        for part, rows in chosen.items()
    ]
    print_table([f"{made.name}@{made.version}", "", ""], rows)


@dataset.command("add-columns")
@click.argument("name", metavar="DATASET")
@click.argument("file", metavar="FILE.csv", type=click.Path(path_type=Path))
@json_option
@store_option
@examples("featstore dataset add-columns cars cameras.csv", "featstore eval --old cars/old --where camera=3")
def add_columns(store: Store, name: str, file: Path, as_json: bool) -> None:
    """Add the columns of a CSV to DATASET, matched by its column id.

    A column that is there already is replaced in the rows that the file has. Features stay valid: they are aligned by
    row, never by columns.
    """
    from featstore.convert import add_columns as add

    report = add(store, name, file)
    if as_json:
        print_json(asdict(report))
        return
    rest = f"; {amount(report.left, 'rows')} are not in the file" if report.left else ""
    out.print(f"{report.dataset}: {', '.join(report.columns)} for {amount(report.rows, 'rows')}{rest}")


@dataset.command()
@click.argument("name", metavar="DATASET")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@json_option
@store_option
@examples("featstore dataset relocate cars /mnt/photos/cars")
def relocate(store: Store, name: str, folder: Path, as_json: bool) -> None:
    """Say where the files of DATASET are now.

    Ids and features stay as they are: an id is a path below the folder. Nothing is read from it.
    """
    made = store.relocate(name, str(folder.absolute()), provenance={"made by": "relocate"})
    if as_json:
        print_json({"dataset": f"{made.name}@{made.version}", "root": made.root})
        return
    out.print(f"{made.name}@{made.version}: files are in {made.root}")
    if not (folder / made.ids[0]).exists():
        out.print(f"[yellow]note:[/] {made.ids[0]} is not there (yet)")
