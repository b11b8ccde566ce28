"""`featstore train` and `featstore losses`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from featstore_cli.options import examples, json_option, pairs, store_option, where_option
from featstore_cli.render import amount, duration, out, print_json, progress

if TYPE_CHECKING:
    from featstore.store import Store


@click.command()
@click.option("--loss", required=True, metavar="LOSS", help="Objective; `featstore losses` lists them.")
@click.option("--old", metavar="SET", help="Be compatible with this set (independent needs none).")
@click.option("--new", required=True, metavar="SET", help="Cached features of the new backbone.")
@click.option(
    "--out", "folder", required=True, metavar="RUN", type=click.Path(path_type=Path), help="Folder of the run."
)
@where_option(help_text="Rows to train on, e.g. split=train; repeat for 'and'.")
@where_option("--val-where", help_text="Rows to select on; default: a share of the training rows.")
@click.option("--width", type=click.IntRange(1), help="Components of the new features; default: the old width.")
@click.option("--bridge", metavar="HOW", help="For a width unlike the old: truncate, pad or project.")
@click.option(
    "--old-run", metavar="RUN", type=click.Path(path_type=Path), help="Run that made the old set: classifier, lineage."
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training rows.")
@click.option("--seed", type=int, default=0, show_default=True, help="Initialisation, order and validation rows.")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any other setting: lr=0.003, params.weight=2."
)
@json_option
@store_option
@examples(
    "featstore train --loss odpp --old cars/old --new cars/new --out runs/odpp",
    "featstore train --loss independent --new cars/new --width 128 --out runs/ref",
)
def train(
    store: Store,
    loss: str,
    old: str | None,
    new: str,
    folder: Path,
    where: tuple[str, ...],
    val_where: tuple[str, ...],
    width: int | None,
    bridge: str | None,
    old_run: Path | None,
    epochs: int | None,
    seed: int,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Learn a compatible model from cached features.

    Trains a head on the cached features of the new backbone; no image is read. The epoch kept is the best on
    validation rows held out of the training rows. RUN gets the map, the classifier and a card; the same command again
    resumes an interrupted run and returns at once for a finished one.
    """
    from featstore_training import TrainConfig
    from featstore_training import train as train_run

    values: dict[str, Any] = {
        "loss": loss,
        "old": old,
        "new": new,
        "where": where,
        "val_where": val_where,
        "seed": seed,
    }
    given = {"width": width, "bridge": bridge, "old_run": old_run, "epochs": epochs}
    values |= {name: value for name, value in given.items() if value is not None}
    config = TrainConfig(**_merged(values, settings))
    with progress() as listener:
        report = train_run(store, config, folder, progress=listener)
    if as_json:
        print_json({**asdict(report), "folder": str(report.folder)})
        return
    how = "cached: this run is there already" if report.cached else duration(report.seconds)
    out.print(
        f"[bold]{folder}[/]  {loss}, {amount(report.rows, 'rows')}, best epoch {report.epoch} of {config.epochs}  ({how})"
    )
    out.print("validation: " + ", ".join(f"{name} {value:.3f}" for name, value in report.validation.items()))


@click.command()
@json_option
def losses(as_json: bool) -> None:
    """List the training objectives."""
    from featstore_training import losses as known

    found = known()
    if as_json:
        print_json([info._asdict() for info in found])
        return
    for info in found:
        lines = [info.summary, f"[dim]{info.paper}[/]", f"[dim]reads {', '.join(info.needs)}[/]"]
        if info.forms:
            lines.append(f"[dim]forms {', '.join(f'{info.name}:{form}' for form in info.forms)}[/]")
        out.print(f"[bold]{info.name:12}[/] " + f"\n{'':13}".join(lines))


def _merged(values: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """The options with `--set` on top; dots go into nested settings, values are JSON or else text.

    Raises:
        UsageError: `--set` names what has an option of its own.
    """
    from featstore.errors import UsageError

    merged = dict(values)
    for name, text in pairs(settings, option="--set", example="lr=0.003").items():
        if name in values:
            raise UsageError(f"--set {name}=… repeats --{name.replace('_', '-')}", hint="use the option")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        place = merged
        *path, last = name.split(".")
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {name}=…: '{part}' is one value, not a group of settings")
        place[last] = value
    return merged
