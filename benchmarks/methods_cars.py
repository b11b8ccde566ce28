"""Every method in head mode on cars: is a new head, trained against cached old features, better on the old gallery than old?

What is compared and how it is split is told in `cars.py`, how settings are chosen in `comparison.py`. Recipes are chosen on
scenario `exclass`, once for each kind of test, and reported as they are on the other scenarios. Runs are kept one by one: the
same command goes on where it was stopped.

    python benchmarks/methods_cars.py --data ../shared/data --out results/cars
    python benchmarks/methods_cars.py --out results/cars --table docs/results/backward.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cars import NEW, OLD, SCENARIOS, TESTS, WIDTH, Cars, cars_parser
from comparison import ADAPTERS, REFERENCE, SELECTION_SEEDS, Ground, choose, report, report_adapters, report_raw, say
from tables import Claim, claims_table, rewrite, scenario_table, split_table, trials_file

from featstore.whole_files import write_whole
from featstore_training.sweep import LOCK

CORE = ("independent", "l2", "bct", "unibct", "mixbct", "ndpp", "odpp", "ours", "bank")
FURTHER = ("bct-classifier", "lce", "ract", "advbct", "bt2", "cores", "nccl")
CHOSEN_ON = "exclass"
ADAPTED = [f"{adapter} of {label}" for label in ("independent", "raw new") for adapter in ADAPTERS]
ROWS = ["raw old", "raw new", *CORE, *FURTHER, *ADAPTED]
BCT, ZHOU = "BCT (Shen et al. 2020)", "NDPP, ODPP (Zhou et al. 2025)"
CLAIMS = [
    Claim(BCT, "new queries beat old ones on the old gallery", ("bct", "cross"), ("bct", "old")),
    Claim(BCT, "better across than regression onto old features", ("bct", "cross"), ("l2", "cross")),
    Claim(BCT, "class means can stand in for the old classifier", ("bct", "cross"), ("bct-classifier", "cross")),
    Claim(
        "UniBCT (Zhang et al. 2022)", "refined prototypes beat plain ones across", ("unibct", "cross"), ("bct", "cross")
    ),
    Claim("MixBCT (Liang et al. 2023)", "beats BCT across", ("mixbct", "cross"), ("bct", "cross")),
    Claim("MixBCT (Liang et al. 2023)", "beats UniBCT across", ("mixbct", "cross"), ("unibct", "cross")),
    Claim("MixBCT (Liang et al. 2023)", "beats BCT by itself", ("mixbct", "self"), ("bct", "self")),
    Claim(ZHOU, "NDPP beats plain prototypes across", ("ndpp", "cross"), ("bct", "cross")),
    Claim(ZHOU, "NDPP beats plain prototypes by itself", ("ndpp", "self"), ("bct", "self")),
    Claim(ZHOU, "ODPP beats plain prototypes across", ("odpp", "cross"), ("bct", "cross")),
    Claim(ZHOU, "ODPP beats plain prototypes by itself", ("odpp", "self"), ("bct", "self")),
    Claim(ZHOU, "ODPP beats NDPP across", ("odpp", "cross"), ("ndpp", "cross")),
    Claim("LCE (Meng et al. 2021)", "beats BCT across", ("lce", "cross"), ("bct", "cross")),
    Claim("AdvBCT (Pan et al. 2023)", "beats BCT across", ("advbct", "cross"), ("bct", "cross")),
    Claim("AdvBCT (Pan et al. 2023)", "beats BCT by itself", ("advbct", "self"), ("bct", "self")),
    Claim("NCCL (Wu et al. 2022)", "beats BCT across", ("nccl", "cross"), ("bct", "cross")),
    Claim("RACT (Zhang et al. 2022)", "beats BCT across", ("ract", "cross"), ("bct", "cross")),
    Claim("BT² (Zhou et al. 2023)", "beats BCT across", ("bt2", "cross"), ("bct", "cross")),
    Claim("BT² (Zhou et al. 2023)", "beats BCT by itself", ("bt2", "self"), ("bct", "self")),
    Claim(
        "CoReS (Biondi et al. 2023)",
        "new queries beat old ones on the old gallery",
        ("cores", "cross"),
        ("cores", "old"),
    ),
    Claim("featstore", "`bank` beats BCT across", ("bank", "cross"), ("bct", "cross")),
    Claim("featstore", "`ours` beats ODPP across", ("ours", "cross"), ("odpp", "cross")),
    Claim("featstore", "`ours` beats ODPP by itself", ("ours", "self"), ("odpp", "self")),
]
SIMPLEX_CAPACITY = {
    "unseen": 129,
    "seen": 197,
}  # vertices for every training class; the width of the others where it can be


def main() -> None:
    """Parse, then run what is missing or write the tables."""
    parser = cars_parser(__doc__, out="where runs and results are kept")
    parser.add_argument("--scenarios", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--methods", nargs="*", choices=[*CORE, *FURTHER], default=[*CORE, *FURTHER])
    parser.add_argument("--trials", type=int, default=4, help="combinations of every recipe")
    parser.add_argument(
        "--try-more",
        type=int,
        metavar="N",
        help="try N combinations on validation rows, to see what fewer miss; test nothing",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        write_tables(arguments.out, arguments.table)
        return
    if arguments.try_more:
        for test in arguments.tests:
            try_more(test, arguments)
        return
    for scenario in arguments.scenarios:
        for test in arguments.tests:
            compare(scenario, test, arguments)
    say("done")


def write_tables(out: Path, page: Path) -> None:
    """Every ground's table, the differences that papers claim, and the trials beside the page."""
    grounds = {f"{scenario}-{test}": out / f"{scenario}-{test}" for scenario in SCENARIOS for test in TESTS}
    tables = {f"cars {name}": scenario_table(folder, ROWS, WIDTH) for name, folder in grounds.items()}
    for scenario in ("exclass", "opclass"):
        tables[f"cars {scenario}-seen split"] = split_table(grounds[f"{scenario}-seen"], [*CORE, *FURTHER])
    tables["cars claims"] = claims_table(grounds, CLAIMS)
    chosen_on = [grounds[f"{CHOSEN_ON}-{test}"] for test in TESTS]
    tables["cars more trials"] = more_trials_table(chosen_on)
    rewrite(page, tables)
    trials_file(page.with_name("backward-cars-trials.csv"), [*grounds.values(), *map(beside, chosen_on)])


def more_trials_table(folders: Sequence[Path]) -> str:
    """What the best of few and of many combinations scored on the validation rows of the selection seeds."""
    lines = ["| test classes | method | trials | best score | trials | best score |", "|---|---|---|---|---|---|"]
    for folder in folders:
        for method in (*CORE, *FURTHER):
            paths = [parent / "sweeps" / method / LOCK for parent in (folder, beside(folder))]
            if method != REFERENCE and all(path.is_file() for path in paths):
                found = [json.loads(path.read_text(encoding="utf-8"))["trials"] for path in paths]
                cells = [f"{len(trials)} | {trials[0]['validation']['score']:.3f}" for trials in found]
                lines.append(f"| {folder.name.rpartition('-')[2]} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not run yet."


def compare(scenario: str, test: str, arguments: argparse.Namespace) -> None:
    """Choose on `CHOSEN_ON`, report on a scenario."""
    cars = Cars(arguments.out / f"cars-{test}", arguments.data, test, arguments.epochs)
    chosen_on, ground = (
        cars.ground(name, arguments.out / f"{name}-{test}", special=special(cars, name, test), trials=arguments.trials)
        for name in (CHOSEN_ON, scenario)
    )
    for method in arguments.methods:
        if method in FURTHER and scenario != CHOSEN_ON:
            continue
        if all(ground.result(method, seed).is_file() for seed in range(arguments.seeds)):
            continue
        prepare(cars, scenario, chosen_on, method, arguments.seeds)
        lock = choose(chosen_on, method)
        for seed in range(arguments.seeds):
            report(ground, method, seed, lock)
            if method == REFERENCE:
                baselines(ground, seed)


def prepare(cars: Cars, scenario: str, chosen_on: Ground, method: str, seeds: int) -> None:
    """Make what single methods need besides: the old sets of `cores`, the sides of `bt2` for the selection seeds."""
    if method == "cores":
        for seed in (*SELECTION_SEEDS, *range(seeds)):
            cars.old(SCENARIOS[scenario][0], seed, "cores", loss="cores", **simplex(cars.test))
    if method == "bt2":
        unconstrained_sides(chosen_on)


def beside(folder: Path) -> Path:
    """Where more combinations are tried for a ground."""
    return folder.with_name(f"{folder.name}-more")


def try_more(test: str, arguments: argparse.Namespace) -> None:
    """Choose among more combinations, against the reference that the few were measured against."""
    cars = Cars(arguments.out / f"cars-{test}", arguments.data, test, arguments.epochs)
    folder = arguments.out / f"{CHOSEN_ON}-{test}"
    few = cars.ground(CHOSEN_ON, folder, special=special(cars, CHOSEN_ON, test), trials=arguments.trials)
    many = replace(few, folder=beside(folder), trials=arguments.try_more)
    many.lock(REFERENCE).parent.mkdir(parents=True, exist_ok=True)
    write_whole(many.lock(REFERENCE), few.lock(REFERENCE).read_bytes())
    for method in arguments.methods:
        prepare(cars, CHOSEN_ON, few, method, seeds=0)
        choose(many, method)


def baselines(ground: Ground, seed: int) -> None:
    """Raw features, and adapters of the unconstrained new head and of the raw new features."""
    report_raw(ground, seed, {"raw old": f"cars/{OLD}", "raw new": f"cars/{NEW}"})
    unconstrained = ground.sets.format(method=REFERENCE, seed=seed)
    report_adapters(ground, seed, {"independent": unconstrained, "raw new": f"cars/{NEW}"})


def unconstrained_sides(ground: Ground) -> None:
    """The features of the chosen reference for the selection seeds, which `bt2` stays close to."""
    chosen = json.loads(ground.lock(REFERENCE).read_text())["trials"][0]["name"]
    for seed in ground.selection_seeds:
        run = ground.lock(REFERENCE).parent / "trials" / f"{chosen}-{seed}"
        ground.encode(run, ground.sets.format(method=REFERENCE, seed=seed))


def simplex(test: str) -> dict[str, Any]:
    """A stationary head has a width of its own."""
    return {"head": {"name": "simplex", "capacity": SIMPLEX_CAPACITY[test]}, "width": None}


def special(cars: Cars, scenario: str, test: str) -> dict[str, dict[str, Any]]:
    """What single methods are told besides: `cores` has an old set of its own, `bt2` a side and a width of its own."""
    by = SCENARIOS[scenario][0]
    return {
        "cores": {
            "old": f"cars/old-{by}-cores-{{seed}}",
            "old_run": str(cars.folder / f"runs/old-{by}-cores-{{seed}}"),
            **simplex(test),
        },
        "bt2": {"width": None, "side": f"cars/{scenario}-{REFERENCE}-{{seed}}"},
    }


if __name__ == "__main__":
    main()
