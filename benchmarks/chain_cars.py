"""A chain of three generations on cars: does each new head stay compatible with all galleries before it?

v1 is a head on MobileNetV1-0.25 features trained with 30 % of the training classes, v2 one on MobileNetV1-1.0 features with
65 %, v3 one on EfficientNet-Lite1 features with all; v2 is trained against v1's cached features, v3 against v2's. Settings are
those that `methods_cars.py` chose (`--out` is the same folder). `independent` is the control: nothing ties its generations.

    python benchmarks/chain_cars.py --data ../shared/data --out results/cars
    python benchmarks/chain_cars.py --out results/cars --table docs/results/backward.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from cars import MODELS, TESTS, WIDTH, Cars, cars_parser
from comparison import METRICS, say
from tables import METRIC, percent, rewrite, span

from featstore.evaluate import Estimate, Estimated, EvalRequest, EvalResult, evaluate_runs
from featstore.maps import apply_map
from featstore.store import split_dataset
from featstore.whole_files import write_whole
from featstore_training import TrainConfig, train
from featstore_training.recipes import merged
from featstore_training.sweep import LOCK, read_lock, trial_config

METHODS = ("bct", "odpp", "independent")
CLASSES = {"v1": 0.3, "v2": 0.35, "v3": 0.35}  # the classes that a generation adds


def main() -> None:
    """Parse, then run what is missing or write the tables."""
    parser = cars_parser(__doc__, out="folder of methods_cars.py; the chains are kept there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        rewrite(arguments.table, {f"chain {test}": table(arguments.out, test) for test in TESTS})
        return
    for test in arguments.tests:
        cars = Cars(arguments.out / f"cars-{test}", arguments.data, test, arguments.epochs)
        for method in METHODS:
            kept = evaluated(arguments.out, test, method)
            if kept is None or len(kept.runs) < arguments.seeds:
                chain(cars, arguments.out, method, arguments.seeds)
    say("done")


def result(out: Path, test: str, method: str) -> Path:
    """Where a chain's evaluation is kept."""
    return out / f"chain-{test}" / f"{method}.json"


def evaluated(out: Path, test: str, method: str) -> EvalResult | None:
    """What a chain was found to do; None before it was run."""
    path = result(out, test, method)
    return EvalResult.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def chain(cars: Cars, out: Path, method: str, seeds: int) -> None:
    """Train the generations of every seed, evaluate all seeds together."""
    requests = []
    for seed in range(seeds):
        names = generations(cars, out, method, seed)
        where = (f"split{seed}=test",)
        requests.append(
            EvalRequest(generations=names, where=where, metrics=METRICS, bootstrap=1000, allow_unrelated=True)
        )
        say(f"chain {cars.test} {method} seed {seed}")
    found = evaluate_runs(cars.store, requests)
    path = result(out, cars.test, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, found.to_json().encode())


def generations(cars: Cars, out: Path, method: str, seed: int) -> tuple[str, ...]:
    """The feature sets of a chain, oldest first. v1 is the same for all methods."""
    cars.split(seed)
    column = f"grow{seed}"
    if column not in cars.store.dataset("cars").column_names:
        split_dataset(cars.store, "cars", CLASSES, by="class", seed=seed, column=column, where=(f"split{seed}=train",))
    lock = read_lock(out / f"exclass-{cars.test}" / "sweeps" / method / LOCK)
    names: list[str] = []
    run: Path | None = None
    for number, (generation, model) in enumerate(zip(CLASSES, MODELS, strict=True), 1):
        saw = ",".join(list(CLASSES)[:number])
        sets: dict[str, Any] = {
            "new": f"cars/{model}",
            "where": [f"split{seed}=train", f"{column}={saw}"],
            "val_where": [f"split{seed}=val"],
        }
        name = f"chain-{generation}-{seed}" if run is None else f"chain-{method}-{generation}-{seed}"
        if run is None:
            config = TrainConfig(loss="independent", width=WIDTH, epochs=cars.epochs, seed=seed, **sets)
        else:
            old = {"old": names[-1], "old_run": str(run)}
            config = trial_config(merged(lock.settings, {**sets, **old}), {}, seed)
        run = cars.folder / "runs" / name
        train(cars.store, config, run)
        apply_map(cars.store, run, f"cars/{model}", f"cars/{name}")
        names.append(f"cars/{name}")
    return tuple(names)


def table(out: Path, test: str) -> str:
    """One line a method: the matrix row by row, then what sums it up."""
    lines = [
        "| | v1/v1 | v2/v1 | v2/v2 | v3/v1 | v3/v2 | v3/v3 | AC | BC | FC | AM | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        found = evaluated(out, test, method)
        if found:
            chain = found.chain
            assert chain
            cells = [percent(value) for row in chain.matrix[METRIC] for value in row]
            sums = [
                shown(chain.ac[METRIC]),
                *(shown(part[METRIC], "+") for part in (chain.bc, chain.fc)),
                shown(chain.am[METRIC]),
            ]
            lines.append(f"| {method} | {' | '.join(cells)} | {' | '.join(sums)} | {len(found.runs)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not run yet."


def shown(number: Estimated, sign: str = "") -> str:
    """A number of a record with its interval."""
    return span(Estimate(number.value, number.low, number.high), sign)


if __name__ == "__main__":
    main()
