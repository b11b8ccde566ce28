"""`featstore train`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from featstore.amounts import duration
from featstore_cli.base import Command
from featstore_cli.options import examples, json_option, store_option, typed, where_option
from featstore_cli.render import amount, out, print_json, print_next, print_table, progress

if TYPE_CHECKING:
    from featstore.store import Store
    from featstore_training import TrainConfig


@click.command(cls=Command)
@click.option("--loss", metavar="LOSS", help="Objective; `featstore losses` lists them.")
@click.option("--recipe", metavar="FILE", help="Take settings from a recipe's base or a sweep.lock.")
@click.option("--sweep", "swept", metavar="RECIPE", help="Try the recipe's settings and lock the best into --out.")
@click.option("--reference", metavar="LOCK", help="With --sweep: sweep.lock of the independent reference.")
@click.option("--old", metavar="SET", help="Be compatible with this set (independent needs none).")
@click.option("--new", metavar="SET", help="Cached features of the new backbone.")
@click.option("--images", metavar="SOURCE", help="Instead of --new: train a backbone on these images.")
@click.option("--model", metavar="MODEL", help="That backbone: run:FOLDER, python:PKG.MODULE:FACTORY or convnet.")
@click.option("--dataset", metavar="DATASET", help="Dataset of the images, if there is no --old; made when new.")
@click.option("--side", "sides", metavar="SET", multiple=True, help="Side-information; several for fct and fastfill.")
@click.option(
    "--direction",
    type=click.Choice(["new-to-old", "old-to-new"]),
    help="Of an adapter: map the new queries or the old gallery.",
)
@click.option(
    "--out", "folder", required=True, metavar="RUN", type=click.Path(path_type=Path), help="Folder of the run."
)
@where_option(help_text="Rows to train on, e.g. split=train; repeat for 'and'.")
@where_option("--val-where", help_text="Rows to select on; default: a share of the training rows.")
@click.option("--views", type=click.IntRange(0, 64), help="Train on this many cached views too (extract --views).")
@click.option("--width", type=click.IntRange(1), help="Components of the new features; default: the old width.")
@click.option("--bridge", metavar="HOW", help="For a width unlike the old: truncate, pad or project.")
@click.option(
    "--old-run", metavar="RUN", type=click.Path(path_type=Path), help="Run that made the old set: classifier, lineage."
)
@click.option(
    "--new-run",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Run that made the new set: fastfill's classifier.",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training rows.")
@click.option("--seed", type=int, help="Initialisation, order and validation rows; default: 0.")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any other setting: lr=0.003, params.weight=2."
)
@json_option
@store_option
@examples(
    "featstore train --loss odpp --old cars/old --new cars/new --out runs/odpp",
    "featstore train --loss independent --new cars/new --width 128 --out runs/ref",
    "featstore train --loss bct --old cars/old --images photos --model run:runs/v1 --out runs/v2",
    "featstore train --loss procrustes --old cars/old --new cars/new --out runs/turn",
    "featstore train --sweep odpp --old cars/old --new cars/new --out sweeps/odpp",
    "featstore train --recipe sweeps/odpp/sweep.lock --old cars/old --new cars/new --out runs/best",
)
def train(
    store: Store,
    loss: str | None,
    recipe: str | None,
    swept: str | None,
    reference: str | None,
    old: str | None,
    new: str | None,
    images: str | None,
    model: str | None,
    dataset: str | None,
    sides: tuple[str, ...],
    direction: str | None,
    folder: Path,
    where: tuple[str, ...],
    val_where: tuple[str, ...],
    views: int | None,
    width: int | None,
    bridge: str | None,
    old_run: Path | None,
    new_run: Path | None,
    epochs: int | None,
    seed: int | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Learn a compatible model beside cached old features.

    With --new, a head is trained on the cached features of the new backbone; no image is read. With --images and
    --model, the backbone itself is trained on images, and old features still come from the cache. The epoch kept is the
    best on validation rows held out of the training rows. RUN gets the map or encoder, the classifier and a card; the
    same command again resumes an interrupted run and returns at once for a finished one.

    Adapters (procrustes, ridge and the like) leave both models as they are and need no labels: they map new queries
    to the old gallery, or with --direction old-to-new the gallery to the new queries. fct maps the gallery, with
    side-information if there is any; fastfill does so too, with labels and the new classifier, and tells which rows
    to backfill first.
    """
    from featstore.errors import UsageError
    from featstore_training import TrainConfig
    from featstore_training import train as train_run
    from featstore_training.adapters import is_adapter
    from featstore_training.recipes import merged

    given = {
        "loss": loss,
        "old": old,
        "new": new,
        "images": images,
        "model": model,
        "dataset": dataset,
        "side": (sides[0] if len(sides) == 1 else sides) or None,
        "direction": direction,
        "where": where or None,
        "val_where": val_where or None,
        "views": views,
        "width": width,
        "bridge": bridge,
        "old_run": old_run,
        "new_run": new_run,
        "epochs": epochs,
        "seed": seed,
    }
    values = {name: value for name, value in given.items() if value is not None}
    dotted = _dotted(settings, given)
    if loss and is_adapter(loss):
        if recipe or swept:
            raise UsageError(f"'{loss}' takes no recipe: it chooses by itself", hint="leave --recipe and --sweep out")
        _fit_adapter(store, folder, merged(values, dotted), as_json=as_json)
        return
    if swept and recipe:
        raise UsageError(
            "--sweep tries a recipe and --recipe takes one as it is",
            hint="leave one out: --sweep writes a lock for --recipe",
        )
    if swept:
        _sweep(store, swept, reference, folder, values, dotted, as_json=as_json)
        return
    config = TrainConfig(**_config_values(recipe, values, dotted))
    with progress() as listener:
        report = train_run(store, config, folder, progress=listener)
    if report.process:
        return
    if as_json:
        print_json({**asdict(report), "folder": str(report.folder)})
        return
    how = "cached: this run is there already" if report.cached else duration(report.seconds)
    name = f"[bold]{folder}[/]  {config.loss}"
    out.print(f"{name}, {amount(report.rows, 'rows')}, best epoch {report.epoch} of {config.epochs}  ({how})")
    if report.validation:
        out.print("validation: " + ", ".join(f"{name} {value:.3f}" for name, value in report.validation.items()))
    _print_next(config, folder)


def _print_next(config: TrainConfig, folder: Path) -> None:
    """The commands that make features of a run, and compare them with the old ones."""
    from featstore_training.run_folder import BRIDGE

    dataset = config.dataset or str(config.new or config.old).partition("/")[0]
    made = f"{dataset}/{folder.name}"
    if config.images:
        model = f"{folder.name}=run:{folder}"
        make: list[object] = ["featstore", "extract", config.images, "--dataset", dataset, "--model", model]
    else:
        make = ["featstore", "apply", folder, config.new, "--as", made]
    bridge = ["--query-map", folder / BRIDGE] if (folder / BRIDGE).is_dir() else []
    judge = ["featstore", "eval", "--old", config.old, "--new", made, *bridge]
    print_next(*([make, judge] if config.old else [make]))


def _fit_adapter(store: Store, folder: Path, values: dict[str, Any], *, as_json: bool) -> None:
    from featstore.errors import UsageError
    from featstore_training import AdapterConfig, fit_adapter

    if "images" in values:
        raise UsageError(
            f"'{values['loss']}' maps cached features to others and has no full mode",
            hint="extract both sets from the images, then: --old DATASET/NAME --new DATASET/NAME",
        )
    missing = [f"--{name} DATASET/NAME" for name in ("old", "new") if name not in values]
    if missing:
        raise UsageError(f"'{values['loss']}' maps between two models", hint=f"name both: {' '.join(missing)}")
    with progress() as listener:
        report = fit_adapter(store, AdapterConfig(**_with_epochs(values)), folder, progress=listener)
    if as_json:
        print_json({**asdict(report), "folder": str(report.folder)})
        return
    how = "cached: this run is there already" if report.cached else duration(report.seconds)
    out.print(f"[bold]{folder}[/]  {report.loss}, {report.direction}, {amount(report.rows, 'rows')}  ({how})")
    if report.chosen:
        out.print("chosen: " + ", ".join(f"{name} {value}" for name, value in report.chosen.items()))
    if report.validation:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in report.validation.items())
        out.print(f"validation by {report.selected_by}: {numbers}")
    option = "--query-map" if report.direction == "new-to-old" else "--gallery-map"
    given = values.get("side") or ()
    sides = [values["old"]] if "old encoder" in report.query_time else [given] if isinstance(given, str) else given
    beside = [word for name in sides for word in ("--side", name)]
    print_next(["featstore", "eval", "--old", values["old"], "--new", values["new"], option, folder, *beside])


def _with_epochs(values: dict[str, Any]) -> dict[str, Any]:
    """Epochs are a setting of the adapters that are trained; the others refuse it by name."""
    epochs = {"epochs": values["epochs"]} if "epochs" in values else {}
    rest = {name: value for name, value in values.items() if name != "epochs"}
    return {**rest, "params": {**values.get("params", {}), **epochs}}


def _config_values(recipe: str | None, values: dict[str, Any], dotted: dict[str, Any]) -> dict[str, Any]:
    """A recipe's settings with those of the command line on top."""
    from featstore.errors import UsageError
    from featstore_training.recipes import find_recipe, merged
    from featstore_training.sweep import read_lock

    base: dict[str, Any] = {}
    if recipe:
        base = read_lock(Path(recipe)).settings if recipe.endswith(".lock") else find_recipe(recipe).base
    if "loss" not in base and "loss" not in values:
        raise UsageError("no loss is named", hint="--loss NAME; `featstore losses` lists them")
    return merged({**base, **values}, dotted)


def _sweep(
    store: Store,
    name: str,
    reference: str | None,
    folder: Path,
    values: dict[str, Any],
    dotted: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from featstore.errors import UsageError
    from featstore_training.recipes import find_recipe, merged
    from featstore_training.sweep import read_lock, sweep

    if "seed" in values:
        raise UsageError("the recipe says which seeds a sweep takes", hint="leave --seed out, or edit its seeds")
    recipe = find_recipe(name)
    against = read_lock(Path(reference)) if reference else None
    with progress() as listener:
        report = sweep(store, recipe, folder, settings=merged(values, dotted), reference=against, progress=listener)
    if as_json:
        print_json({**asdict(report), "folder": str(report.folder)})
        return
    numbers = [key for key in ("score", "cross_test", "self_test") if key in report.chosen.validation]
    rows = [
        [
            ("◆ " if trial.frontier else "  ")
            + (", ".join(f"{key}={value}" for key, value in trial.settings.items()) or "(as it is)"),
            *(f"{trial.validation[key]:.3f}" for key in numbers),
        ]
        for trial in report.trials
    ]
    print_table(["◆ frontier of cross against self", *numbers], rows)
    runs = f"{amount(report.runs, 'runs')}, {report.cached} of them there already"
    out.print(f"[bold]{folder / 'sweep.lock'}[/]  {runs}; take it with --recipe {folder / 'sweep.lock'}")


def _dotted(settings: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """`--set` as dotted settings; values are JSON or else text.

    Raises:
        UsageError: `--set` names what has an option of its own.
    """
    from featstore.errors import UsageError

    found = typed(settings, option="--set", example="lr=0.003")
    for name in found:
        if name in options:
            raise UsageError(f"--set {name}=… repeats --{name.replace('_', '-')}", hint="use the option")
    return found
