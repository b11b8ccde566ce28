"""The forward path on cars: the old gallery mapped into the new space, or queries into the old one.

Data and splits are those of `methods_cars.py`, scenario `exclass`; what is compared is told in `forward_study.py`. SimCLR is
trained on the images of the old model's training rows; the stronger frozen side is MobileNetV1-0.5 at 128 pixels. With
`--upgrade cross-loss` the old head was trained with a plain softmax, with `cross-dataset` on groceries instead of cars.

    python benchmarks/forward_cars.py --data ../shared/data --out results/forward
    python benchmarks/forward_cars.py --out results/forward --table docs/results/forward.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from cars import MODELS, NEW, OLD, WIDTH, Cars
from forward_study import Study
from forward_tables import write_tables
from forward_trunks import SCENARIO, TrunkStudy, folders, parse
from trunks import TESTS

from featstore.convert import import_features
from featstore.maps import apply_map
from featstore_training import TrainConfig, train

STRONGER = "v1_050_128"
UPGRADES = {"cross-loss": "old-class-softmax", "cross-dataset": "old-grocery"}  # other old models, and their runs


def study(test: str, arguments: argparse.Namespace) -> Study:
    """Cars, test classes seen or unseen."""
    folder = arguments.out / f"trunks-cars-{test}"
    trunks = Cars(folder, arguments.data, test, arguments.epochs, models=(OLD, *MODELS[1:-1], STRONGER, NEW))
    made = TrunkStudy(arguments.hidden, arguments.side_epochs, trunks, arguments.out, STRONGER)
    if arguments.upgrade != "same":
        name = UPGRADES[arguments.upgrade]
        makers: dict[str, Callable[[int], object]] = {
            "cross-loss": lambda seed: trunks.old("class", seed, "softmax", head="softmax"),
            "cross-dataset": lambda seed: old_of_groceries(trunks, seed, name),
        }
        made.other_old = (name, makers[arguments.upgrade])
    return made


def old_of_groceries(trunks: Cars, seed: int, name: str) -> Path:
    """An old head that never saw a car: trained on photos of groceries as the same trunk saw them."""
    trunks.split(seed)
    store, run = trunks.store, trunks.folder / "runs" / f"{name}-{seed}"
    if not store.has_features(f"grocery/{OLD}"):
        import_features(
            store,
            trunks.data / "features" / f"grocery_{OLD}.npz",
            f"grocery/{OLD}",
            space=store.features(trunks.set(OLD)).space.name,
            keys={"features": "emb", "ids": "path", "labels": "class_name"},
            rows_file=trunks.data / "grocery" / "index.csv",
        )
    if not store.has_features(trunks.set(f"{name}-{seed}")):
        config = TrainConfig(loss="independent", new=f"grocery/{OLD}", width=WIDTH, epochs=trunks.epochs, seed=seed)
        train(store, config, run)
        apply_map(store, run, trunks.set(OLD), trunks.set(f"{name}-{seed}"))
    return run


def tables(arguments: argparse.Namespace) -> None:
    """Tables of both kinds of test, also for the other old models."""
    theirs = {test: arguments.backward / f"{SCENARIO}-{test}" for test in TESTS} if arguments.backward else {}
    others = {upgrade: folders(arguments.out, "cars", runs) for upgrade, runs in UPGRADES.items()}
    write_tables(arguments.table, "cars", folders(arguments.out, "cars"), backward=theirs, others=others)


if __name__ == "__main__":
    parse(str(__doc__).splitlines()[0], study, tables, list(UPGRADES))
