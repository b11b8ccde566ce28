"""`featstore import` and `featstore export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from featstore.amounts import duration
from featstore_cli.base import Command
from featstore_cli.options import examples, json_option, pairs, store_option
from featstore_cli.render import amount, out, print_json, progress

if TYPE_CHECKING:
    from featstore.convert import Duplicates
    from featstore.store import Store, ZeroRows

_DTYPES = click.Choice(["float16", "float32", "float64"])


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--as", "as_", metavar="DATASET/NAME", required=True, help="Feature set to make; a new dataset is made with it."
)
@click.option("--space", metavar="NAME", help="What the vectors are comparable with; default: DATASET/NAME.")
@click.option(
    "--key",
    "keys",
    metavar="KEY=NAME",
    multiple=True,
    help="Another name in the file: features=emb, ids=path, labels=class.",
)
@click.option(
    "--rows",
    "rows_file",
    metavar="FILE.csv",
    type=click.Path(path_type=Path),
    help="Ids, labels and columns, one line a row.",
)
@click.option("--root", metavar="FOLDER", help="Folder the ids are relative to, if they are files (for thumbnails).")
@click.option(
    "--dtype",
    metavar="TYPE",
    type=_DTYPES,
    help="float16, float32 or float64; default: the narrowest that loses nothing.",
)
@click.option("--by-position", is_flag=True, help="Join an existing dataset by row number instead of id.")
@click.option(
    "--duplicates",
    metavar="POLICY",
    type=click.Choice(["error", "same", "first"]),
    default="error",
    show_default=True,
    help="An id that stands there again: error, same (merge rows with equal feature and label) or first (keep that row).",
)
@click.option(
    "--zero-rows",
    metavar="POLICY",
    type=click.Choice(["error", "keep"]),
    default="error",
    show_default=True,
    help="Rows of zeros, often items that failed: error, or keep (side-information may have them).",
)
@json_option
@store_option
@examples(
    "featstore import emb.npz --as cars/v1 --key features=emb",
    "featstore import emb.npy --rows index.csv --key ids=path --as cars/v1",
    "featstore import table.parquet --as cars/v1 --key 'features=dim_*'",
)
def import_(
    store: Store,
    file: Path,
    as_: str,
    space: str | None,
    keys: tuple[str, ...],
    rows_file: Path | None,
    root: str | None,
    dtype: str | None,
    by_position: bool,
    duplicates: Duplicates,
    zero_rows: ZeroRows,
    as_json: bool,
) -> None:
    """Bring features made elsewhere into the store.

    FILE is .npz, .npy, .h5, .parquet, .safetensors or a .zarr folder. It holds features (rows × components) and, if it
    has them, ids and labels; further columns come along. --rows names a CSV for what the file does not hold.

    A new dataset takes its rows from the file; rows of an existing one are joined by id. Every row is checked before
    anything is written. The same command again goes on where an interrupted one stopped.
    """
    from featstore.convert import import_features

    with progress() as listener:
        report = import_features(
            store,
            file,
            as_,
            space=space,
            keys=pairs(keys, option="--key", example="features=emb"),
            rows_file=rows_file,
            root=root,
            dtype=dtype,
            by_position=by_position,
            duplicates=duplicates,
            zero_rows=zero_rows,
            progress=listener,
        )
    if as_json:
        print_json(asdict(report))
        return
    how = "cached: this file is there already" if report.cached else f"{duration(report.seconds)}"
    out.print(f"[bold]{report.set}[/]  {amount(report.rows, 'rows')} × {report.width} {report.dtype}  ({how})")
    if report.absent:
        out.print(f"{amount(report.absent, 'rows')} of the dataset are not in the file")
    if report.merged:
        out.print(f"{amount(report.merged, 'rows')} of the file left out: an earlier row has the same id")


@click.command(cls=Command)
@click.argument("set_", metavar="SET")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
@json_option
@store_option
@examples(
    "featstore export cars/v1 v1.zarr",
    "featstore export cars/v1@2 v1.npz",
)
def export(store: Store, set_: str, file: Path, overwrite: bool, as_json: bool) -> None:
    """Write a feature set to a file of another tool.

    SET is DATASET/NAME or DATASET/NAME@VERSION. The type of FILE follows from its ending: .npz, .h5, .parquet and .zarr
    hold features, ids, labels and columns; .npy and .safetensors hold the features, with a .csv of the rest beside them.
    Rows without a feature are left out.
    """
    from featstore.convert import export_features

    with progress() as listener:
        report = export_features(store, set_, file, overwrite=overwrite, progress=listener)
    if as_json:
        print_json(asdict(report))
        return
    left = f", {report.left_out:,} without a feature left out" if report.left_out else ""
    out.print(f"{' and '.join(report.files)}: {amount(report.rows, 'rows')}{left}  ({duration(report.seconds)})")
