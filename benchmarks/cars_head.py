"""Head mode on cars: is a head trained against cached old features better on the old gallery than the old model itself?

Scenario `exclass`: old is a head on MobileNetV1-0.25 features trained with 30 % of the training classes; new is a head on
EfficientNet-Lite1 features trained with all. Test `seen`: 60 % of each class's images train, 10 % validate, 30 % test;
test `unseen`: 40 % of the classes train, 10 % validate, 50 % test. Width 128, the epoch chosen on validation rows, test rows
scored once. Prints mAP and R@1 over the seeds with intervals over seeds × classes × queries.

Settings are as shipped, nothing tuned. With --trials N the rows are shipped recipes instead: every method gets N trials on
the selection seeds 100–102, scored on validation rows, and what `sweep.lock` says is reported on seeds 0 and up.

    python benchmarks/cars_head.py --data ../shared/data --test unseen --seeds 3
    python benchmarks/cars_head.py --data ../shared/data --test unseen --trials 4 --rows independent l2 bct odpp ours
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from featstore.convert import import_features
from featstore.evaluate import Column, EvalRequest, EvalResult, Resampled, Run, evaluate
from featstore.maps import apply_map
from featstore.store import Store, split_dataset
from featstore_training import TrainConfig, train
from featstore_training.recipes import find_recipe, shipped_recipes
from featstore_training.sweep import LOCK, read_lock, sweep

ROWS: dict[str, dict[str, Any]] = {
    "independent": {"loss": "independent"},
    "independent arcface": {"loss": "independent", "head": "arcface"},
    "l2": {"loss": "l2"},
    "l2:weakened": {"loss": "l2:weakened"},
    "bct:prototype": {"loss": "bct:prototype"},
    "bct:classifier": {"loss": "bct:classifier"},
    "unibct": {"loss": "unibct"},
    "unibct:column": {"loss": "unibct:column"},
    "mixbct": {"loss": "mixbct"},
    "mixbct share .7": {"loss": "mixbct", "params": {"share": 0.7}},
    "ndpp": {"loss": "ndpp"},
    "ndpp:positive_only": {"loss": "ndpp:positive_only"},
    "ndpp:as_coded": {"loss": "ndpp:as_coded"},
    "odpp": {"loss": "odpp"},
    "odpp:positive_only": {"loss": "odpp:positive_only"},
    "advbct": {"loss": "advbct"},
    "lce": {"loss": "lce"},
    "lce:angle": {"loss": "lce:angle"},
    "ract": {"loss": "ract"},
    "nccl": {"loss": "nccl"},
    "bank": {"loss": "bank"},
    "bank + mix": {"loss": "bank", "params": {"mix": {}}},
    "bct + whiten": {"loss": "bct", "params": {"whiten": {}}},
    "odpp + whiten": {"loss": "odpp", "params": {"whiten": {}}},
    "odpp + bank": {"loss": "odpp", "params": {"bank": {}}},
    "odpp + bank + mix": {"loss": "odpp", "params": {"bank": {}, "mix": {}}},
}
METRICS = ("map", "recall@1")
OLD_MODEL, NEW_MODEL = "v1_025_128", "lite1_192"
WIDTH = 128
SELECTION_SEEDS = (100, 101, 102)
TO_SET_NAME = str.maketrans({" ": None, ":": "-", "+": "-", ".": "-"})
PARTS = {
    "seen": ("image", {"train": 0.6, "val": 0.1, "test": 0.3}),
    "unseen": ("class", {"train": 0.4, "val": 0.1, "test": 0.5}),
}


def main() -> None:
    """Parse, run every seed, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with features/ and cars196h/")
    parser.add_argument("--test", choices=list(PARTS), default="seen", help="were the test classes trained on?")
    parser.add_argument(
        "--rows", nargs="*", default=None, metavar="ROW", help="rows, or recipes with --trials; default: all"
    )
    parser.add_argument("--trials", type=int, default=0, help="choose settings among so many for every method")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=None, help="default: the trainer's own")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here too")
    arguments = parser.parse_args()
    began = time.monotonic()
    known = [name for name in shipped_recipes() if name != "bct-classifier"] if arguments.trials else list(ROWS)
    names = arguments.rows or known
    if unknown := set(names) - set(known):
        parser.error(f"no rows {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        store = open_cars(Path(folder), arguments.data)
        rows = choose(store, Path(folder), names, arguments) if arguments.trials else {n: ROWS[n] for n in names}
        runs, columns = [], ()
        for seed in range(arguments.seeds):
            columns, run = one_seed(store, Path(folder), seed, rows, arguments)
            runs.append(run)
            print(f"seed {seed} done after {time.monotonic() - began:.0f} s", flush=True)
    resampled = Resampled.of(columns, runs, resamples=2000, seed=0)
    printed = table(resampled)
    if arguments.json:
        arguments.json.write_text(json.dumps({"settings": rows, "rows": printed}, indent=1, default=str))


def open_cars(folder: Path, data: Path) -> Store:
    """A store with the cached features of both models."""
    store = Store.init(folder / "store")
    for model in (OLD_MODEL, NEW_MODEL):
        import_features(
            store,
            data / "features" / f"cars196h_{model}.npz",
            f"cars/{model}",
            keys={"features": "emb", "ids": "path", "labels": "class_name"},
            rows_file=data / "cars196h" / "index.csv",
        )
    return store


def choose(store: Store, folder: Path, names: list[str], arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The settings that the same number of trials chose for every method, on validation rows of the selection seeds."""
    for seed in SELECTION_SEEDS:
        prepare_seed(store, folder, seed, arguments)
    sets: dict[str, Any] = {
        "new": f"cars/{NEW_MODEL}",
        "old": "cars/old-{seed}",
        "where": ["split{seed}=train"],
        "val_where": ["split{seed}=val"],
        "width": WIDTH,
    }
    if arguments.epochs is not None:
        sets["epochs"] = arguments.epochs
    chosen, reference = {}, None
    for name in sorted(names, key=lambda name: name != "independent"):  # the reference first, by self alone
        recipe = find_recipe(name).model_copy(update={"trials": arguments.trials, "seeds": SELECTION_SEEDS})
        report = sweep(store, recipe, folder / "sweeps" / name, settings=sets, reference=reference)
        lock = read_lock(report.folder / LOCK)
        reference = lock if name == "independent" else reference
        chosen[name] = lock.settings
        for trial in report.trials:
            numbers = ", ".join(f"{key} {value:.4f}" for key, value in trial.validation.items())
            print(f"{name}: {trial.settings} → {numbers}{' ◆' if trial.frontier else ''}", flush=True)
    return chosen


def prepare_seed(store: Store, folder: Path, seed: int, arguments: argparse.Namespace) -> Path:
    """Split the rows and make the old set `cars/old-SEED`; returns the old run."""
    split, era = f"split{seed}", f"era{seed}"
    by, parts = PARTS[arguments.test]
    split_dataset(store, "cars", parts, by=by, seed=seed, column=split)
    split_dataset(store, "cars", {"old": 0.3, "new": 0.7}, by="class", seed=seed, column=era, where=(f"{split}=train",))
    config = TrainConfig(
        loss="independent",
        new=f"cars/{OLD_MODEL}",
        where=(f"{split}=train", f"{era}=old"),
        val_where=(f"{split}=val",),
        width=WIDTH,
        seed=seed,
        **({} if arguments.epochs is None else {"epochs": arguments.epochs}),
    )
    return fit(store, config, folder, f"cars/old-{seed}")


def one_seed(
    store: Store, folder: Path, seed: int, rows: dict[str, dict[str, Any]], arguments: argparse.Namespace
) -> tuple[tuple[Column, ...], Run]:
    """Train every method, evaluate; per-query values of every column of the table."""
    old_run, old, split = prepare_seed(store, folder, seed, arguments), f"cars/old-{seed}", f"split{seed}"
    common: dict[str, Any] = {
        "new": f"cars/{NEW_MODEL}",
        "old": old,
        "old_run": old_run,
        "where": (f"{split}=train",),
        "val_where": (f"{split}=val",),
        "width": WIDTH,
        "seed": seed,
    }
    if arguments.epochs is not None:
        common["epochs"] = arguments.epochs
    values_of: dict[Column, np.ndarray] = {}
    classes = np.zeros(0, dtype=np.int64)
    for name, settings in rows.items():
        new = f"cars/{name.translate(TO_SET_NAME)}-{seed}"
        fit(store, TrainConfig(**{**settings, **common}), folder, new)
        request = EvalRequest(
            old=old, new=new, where=(f"{split}=test",), metrics=METRICS, bootstrap=0, allow_unrelated=True
        )
        result = evaluate(store, request)
        classes = result.evidence.problem.classes
        values_of |= values(result, {"old/old": "old/old", "new/old": f"{name} cross", "new/new": f"{name} self"})
    for model, name in ((OLD_MODEL, "raw old"), (NEW_MODEL, "raw new")):
        request = EvalRequest(new=f"cars/{model}", where=(f"{split}=test",), metrics=METRICS, bootstrap=0)
        values_of |= values(evaluate(store, request), {"new/new": f"{name} self"})
    kept = np.all([~np.isnan(column) for column in values_of.values()], axis=0)
    return tuple(values_of), Run(np.stack([column[kept] for column in values_of.values()], axis=1), classes[kept])


def fit(store: Store, config: TrainConfig, folder: Path, as_: str) -> Path:
    """Train and apply: `as_` is the new feature set. Returns the run folder."""
    run = folder / "runs" / as_.replace("/", "-")
    train(store, config, run)
    apply_map(store, run, config.new, as_)
    return run


def values(result: EvalResult, roles: dict[str, str]) -> dict[Column, np.ndarray]:
    """Per-query values by the row names of the table."""
    per_query = result.evidence.per_query
    return {Column(row, metric): per_query[role].values[metric] for role, row in roles.items() for metric in METRICS}


def table(resampled: Resampled) -> list[dict[str, object]]:
    """Print one line a row, with the paired difference to old/old for cross rows, and return the numbers."""
    print(
        f"\n{'%':25}"
        + "".join(f"{metric:>9}  {'95 %':13}{'− old/old':>10}  {'95 %':15}" for metric in METRICS)
        + "verdict (map)"
    )
    rows = []
    for name in dict.fromkeys(column.role for column in resampled.columns):
        line, verdict = f"{name:25}", ""
        for metric in METRICS:
            value = resampled.estimate({Column(name, metric): 1.0})
            line += f"{100 * value.value:9.1f}  {span(value.low, value.high, ''):13}"
            row: dict[str, object] = {
                "row": name,
                "metric": metric,
                "value": value.value,
                "low": value.low,
                "high": value.high,
            }
            if name.endswith("cross"):
                change = resampled.estimate({Column(name, metric): 1.0, Column("old/old", metric): -1.0})
                line += f"{100 * change.value:+10.1f}  {span(change.low, change.high, '+'):15}"
                row["difference"] = list(change)
                if metric == "map" and change.low is not None and change.high is not None:
                    verdict = "compatible" if change.low > 0 else "not compatible" if change.high <= 0 else "undecided"
            else:
                line += " " * 27
            rows.append(row)
        print(line + verdict)
    return rows


def span(low: float | None, high: float | None, sign: str) -> str:
    """An interval in percent."""
    return "" if low is None or high is None else f"{100 * low:{sign}.1f} … {100 * high:{sign}.1f}"


if __name__ == "__main__":
    main()
