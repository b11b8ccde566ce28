"""Does a better old model make compatibility easier? Old heads of rising quality, the same new head against each.

Old is a softmax or ArcFace head of width 64 or 128, trained with 10, 30 or 100 % of the training classes; new always sees all
and has the old one's width. Settings are those that `methods_cars.py` chose on `exclass` (`--out` is the same folder), and
its reference divides self-tests when an epoch is chosen; what a width of 64 or another old share would prefer was not asked.

    python benchmarks/ladder_cars.py --data ../shared/data --out results/cars
    python benchmarks/ladder_cars.py --out results/cars --table docs/results/backward.md
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import torch
from cars import TESTS, Cars, cars_parser
from comparison import Ground, report, say
from tables import METRIC, Results, rewrite, span, verdict

from featstore.evaluate import Column
from featstore_training.sweep import LOCK, read_lock

METHODS = ("l2", "bct", "mixbct", "odpp")
STEPS = [
    f"{head}-{width}-{share}"
    for head, width, share in itertools.product(("softmax", "arcface"), (64, 128), (10, 30, 100))
]


def main() -> None:
    """Parse, then run what is missing or write the tables."""
    parser = cars_parser(__doc__, out="folder of methods_cars.py; results are kept there too", tests=["seen"], seeds=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        rewrite(arguments.table, {f"ladder {test}": table(arguments.out, test) for test in TESTS})
        return
    for test in arguments.tests:
        cars = Cars(arguments.out / f"cars-{test}", arguments.data, test, arguments.epochs)
        for seed, step in itertools.product(range(arguments.seeds), STEPS):
            ground = rung(cars, arguments.out, step)
            for method in METHODS:
                lock = read_lock(arguments.out / f"exclass-{test}" / "sweeps" / method / LOCK)
                report(ground, method, seed, lock)
    say("done")


def rung(cars: Cars, out: Path, step: str) -> Ground:
    """One old head as a ground."""
    head, width, share = step.split("-")
    ground = cars.ground("exclass", out / f"ladder-{cars.test}" / step)
    settings = {
        **ground.settings,
        "old": f"cars/old-class-{step}-{{seed}}",
        "old_run": str(cars.folder / f"runs/old-class-{step}-{{seed}}"),
        "width": int(width),
    }
    return replace(
        ground,
        settings=settings,
        prepare=lambda seed: cars.old("class", seed, step, share=int(share) / 100, width=int(width), head=head),
        reference=ground.folder.parents[1] / f"exclass-{cars.test}",
        sets=f"cars/ladder-{step}-{{method}}-{{seed}}",
    )


def table(out: Path, test: str) -> str:
    """One line an old head, poorest first: cross − old/old of every method."""
    rungs = []
    for step in STEPS:
        results = Results(out / f"ladder-{test}" / step, METHODS)
        found = results.of(METHODS[0])
        if found:
            old = found.estimate({Column(METHODS[0], f"old {METRIC}"): 1})
            cells = []
            for method in METHODS:
                own = results.of(method)
                if own is None:
                    cells.append("")
                    continue
                change = own.estimate({Column(method, f"cross {METRIC}"): 1, Column(method, f"old {METRIC}"): -1})
                cells.append(f"{span(change, '+')} {verdict(change)}")
            rungs.append(
                (old.value, f"| {step} | {span(old)} | {' | '.join(cells)} | {len(results.seeds[METHODS[0]])} |")
            )
    if not rungs:
        return "Not run yet."
    head = ["| old head | old/old | " + " | ".join(METHODS) + " | seeds |", "|---|---|---|" + "---|" * len(METHODS)]
    return "\n".join([*head, *(line for _, line in sorted(rungs))])


if __name__ == "__main__":
    main()
