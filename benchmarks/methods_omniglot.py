"""Methods that train a whole backbone, on handwritten characters: old saw half of the background classes, new sees all.

Old is a 4-conv net of width 16, new one of width 32, both with 64 features. Three background alphabets validate, others in
every seed; the test is retrieval among the 659 classes of the evaluation split, which no model saw. Recipes are chosen on
the selection seed's held-out alphabets, or were chosen elsewhere: `--recipes FOLDER` takes the locks of a ground of
`methods_cars.py`. Methods of which one seed is reported are untuned, their recipe's first combination. Training reads
`--drawers` of the 20 images of each class. Runs are kept one by one, as in `methods_cars.py`.

    python benchmarks/methods_omniglot.py --data ../shared/data --out results/omniglot
    python benchmarks/methods_omniglot.py --out results/omniglot --table docs/results/backward.md
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import REFERENCE, Ground, choose, report, say
from PIL import Image
from tables import Claim, claims_table, rewrite, scenario_table, trials_file

from featstore.extract import ExtractRequest, extract
from featstore.extract.listing import add_rows, list_source
from featstore.sources import ImageFolder
from featstore.store import Store, split_dataset
from featstore_training import TrainConfig, train
from featstore_training.model_config import ModelConfig
from featstore_training.recipes import find_recipe, merged
from featstore_training.sweep import LOCK, Lock, read_lock

TUNED = ("independent", "l2", "bct", "unibct", "mixbct", "ndpp", "odpp", "ours")
UNTUNED = ("bct-classifier", "lce", "ract", "advbct", "bt2", "cores", "nccl", "bank")
CLAIMS = [
    Claim(paper, text, (better, role), (worse, other))
    for paper, text, better, role, worse, other in (
        ("BCT", "new queries beat old ones on the old gallery", "bct", "cross", "bct", "old"),
        ("UniBCT", "refined prototypes beat plain ones across", "unibct", "cross", "bct", "cross"),
        ("MixBCT", "beats BCT across", "mixbct", "cross", "bct", "cross"),
        ("MixBCT", "beats BCT by itself", "mixbct", "self", "bct", "self"),
        ("NDPP", "beats plain prototypes across", "ndpp", "cross", "bct", "cross"),
        ("ODPP", "beats plain prototypes across", "odpp", "cross", "bct", "cross"),
        ("ODPP", "beats NDPP across", "odpp", "cross", "ndpp", "cross"),
        ("featstore", "`ours` beats ODPP across", "ours", "cross", "odpp", "cross"),
    )
]
WIDTH = 64
VERTICES = 964  # of the simplex that `cores` stands on: one for each background class, in a space of one dimension less
SIMPLEX = {"name": "simplex", "capacity": VERTICES}
STATIONARY = "old-cores-{seed}"
HELD_OUT = 3  # alphabets
SELECTION_SEEDS = (100,)
SEEN, UNSEEN = "background", "evaluation"
SETS = f"{SEEN}/{{method}}-{{seed}}"
FULL: dict[str, Any] = {"batch": 64, "augment": {"flip": False, "area": [0.7, 1.0], "angle": 10.0}, "workers": 0}


def main() -> None:
    """Parse, then run what is missing or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with omniglot32/")
    parser.add_argument("--out", type=Path, required=True, help="where runs and results are kept")
    parser.add_argument("--methods", nargs="*", choices=[*TUNED, *UNTUNED], default=[*TUNED, *UNTUNED])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=3, help="combinations of every recipe")
    parser.add_argument(
        "--recipes", type=Path, default=None, help="ground whose locked recipes are taken; none: choose here"
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--drawers", type=int, default=20, help="images of each training class")
    parser.add_argument(
        "--table", type=Path, default=None, metavar="PAGE", help="write the tables of a page, run nothing"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.out / "omniglot"
    if arguments.table:
        tables = {"omniglot": scenario_table(folder, [*TUNED, *UNTUNED], WIDTH)}
        rewrite(arguments.table, tables | {"omniglot claims": claims_table({"omniglot": folder}, CLAIMS)})
        trials_file(arguments.table.with_name("backward-omniglot-trials.csv"), [folder])
        return
    data = Omniglot(folder, arguments.data / "omniglot32" / "omniglot32.npz", arguments.epochs, arguments.drawers)
    ground = data.ground(arguments.trials)
    locks: dict[str, Lock] = {}
    for seed in range(arguments.seeds):
        for method in arguments.methods:
            if ground.result(method, seed).is_file() or (seed and method in UNTUNED):
                continue
            if method == "cores":
                ground.prepare(seed)
                data.stationary(seed)
            if method == "bt2":
                data.reference(ground, seed, arguments.recipes)
            if method not in locks:
                locks[method] = locked(ground, method, arguments.recipes)
            report(ground, method, seed, locks[method])
    say("done")


def locked(ground: Ground, method: str, recipes: Path | None) -> Lock:
    """What a method is trained with: as locked elsewhere, as chosen here, or what its recipe begins with."""
    if recipes:
        return read_lock(recipes / "sweeps" / method / LOCK)
    if method in TUNED:
        return choose(ground, method)
    recipe = find_recipe(method)
    return Lock(merged(merged(recipe.base, recipe.combinations()[0]), ground.of(method)), {})


def convnet(width: int, features: int = WIDTH) -> dict[str, Any]:
    """Four convolutions of a width, then a linear layer to so many features."""
    return {
        "name": "convnet",
        "config": {"in_channels": 1, "widths": [width] * 4, "embedding": features},
        "preprocess": {"size": 32, "channels": 1},
    }


@dataclass(frozen=True)
class Omniglot:
    """Characters as two image folders and their datasets.

    Attributes:
        folder: Of everything made.
        file: The arrays.
        epochs: Of every run.
        drawers: Images of each class that training reads.
        store: Made at the first use.
    """

    folder: Path
    file: Path
    epochs: int
    drawers: int
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", self._open())

    def ground(self, trials: int) -> Ground:
        """New nets of width 32."""
        settings = {
            **FULL,
            "images": str(self.images(SEEN)),
            "model": convnet(32),
            "old": f"{SEEN}/old-{{seed}}",
            "old_run": str(self.folder / "runs/old-{seed}"),
            "where": ["split{seed}=train"],
            "val_where": ["split{seed}=val"],
            "epochs": self.epochs,
            "width": None,
        }
        return Ground(
            folder=self.folder,
            store=self.store,
            settings=settings,
            test=(),
            prepare=self.old,
            encode=lambda run, as_: self.encode(run, as_, UNSEEN),
            sets=SETS,
            special=self.special(),
            trials=trials,
            selection_seeds=SELECTION_SEEDS,
            tested=lambda name: name.replace(SEEN, UNSEEN),
        )

    def special(self) -> dict[str, dict[str, Any]]:
        """What single methods are told besides: `cores` has an old model and a width of its own, `bt2` a side."""
        return {
            "cores": {
                "old": f"{SEEN}/{STATIONARY}",
                "old_run": str(self.folder / "runs" / STATIONARY),
                "head": SIMPLEX,
                "model": convnet(32, VERTICES - 1),
            },
            "bt2": {"side": SETS.format(method=REFERENCE, seed="{seed}")},
        }

    def images(self, split: str) -> Path:
        """The folder of a split."""
        return self.folder / "images" / split

    def encode(self, run: Path, as_: str, *splits: str) -> None:
        """A feature set of a run in the datasets of some splits."""
        for split in splits:
            models = {as_.partition("/")[2]: f"run:{run}"}
            extract(
                self.store,
                ExtractRequest(source=str(self.images(split)), dataset=split, models=models, workers=1, batch=256),
            )

    def old(self, seed: int) -> None:
        """Split the rows of a seed, and make the old sets."""
        split, era = f"split{seed}", f"era{seed}"
        dataset = self.store.dataset(SEEN)
        if split not in dataset.column_names:
            self.store.add_columns(SEEN, {split: self._held_out(seed)}, provenance={"split": split, "seed": seed})
            halves = {"old": 0.5, "new": 0.5}
            split_dataset(self.store, SEEN, halves, by="class", seed=seed, column=era, where=(f"{split}=train",))
        self.small_net(f"old-{seed}", seed, *self.old_rows(seed))

    def old_rows(self, seed: int) -> tuple[str, str]:
        """Filters of the images that the old model saw."""
        return f"split{seed}=train", f"era{seed}=old"

    def stationary(self, seed: int) -> None:
        """The old model of `cores`, on the vertices that the new one will stand on."""
        name = STATIONARY.format(seed=seed)
        self.small_net(
            name, seed, *self.old_rows(seed), loss="cores", head=SIMPLEX, model=ModelConfig(**convnet(16, VERTICES - 1))
        )

    def reference(self, ground: Ground, seed: int, recipes: Path | None) -> None:
        """The unconstrained net's features of the background split; the ground's own runs encode the other one only."""
        if not ground.result(REFERENCE, seed).is_file():
            report(ground, REFERENCE, seed, locked(ground, REFERENCE, recipes))
        name = ground.sets.format(method=REFERENCE, seed=seed)
        if not self.store.has_features(name):
            self.encode(ground.folder / "runs" / f"{REFERENCE}-{seed}", name, SEEN)

    def small_net(self, name: str, division: int, *where: str, **settings: Any) -> None:
        """Train a net of the old size on some rows, and encode the images of both splits with it, unless that is done.

        Args:
            name: Of its run and its sets.
            division: Seed whose validation rows choose the epoch; of the run as well, unless settings say otherwise.
            where: Rows to train on.
            settings: What differs from the old model, as in TrainConfig.
        """
        if self.store.has_features(f"{UNSEEN}/{name}"):
            return
        given: dict[str, Any] = {
            "loss": REFERENCE,
            "epochs": self.epochs,
            "lr": 0.003,
            "seed": division,
            "model": ModelConfig(**convnet(16)),
            **FULL,
            **settings,
        }
        config = TrainConfig(
            dataset=SEEN,
            images=str(self.images(SEEN)),
            where=where,
            val_where=() if given["loss"] == "simclr" else (f"split{division}=val",),
            **given,
        )
        run = self.folder / "runs" / name
        train(self.store, config, run)
        self.encode(run, f"{SEEN}/{name}", SEEN, UNSEEN)

    def _held_out(self, seed: int) -> list[str | None]:
        """`val` for rows of some alphabets, `train` for the drawers that are read of the others."""
        dataset = self.store.dataset(SEEN)
        names = [dataset.labels.names[code] for code in dataset.labels.codes.tolist()]
        alphabets = sorted({alphabet_of(name) for name in names})
        held = set(np.random.default_rng(seed).choice(alphabets, HELD_OUT, replace=False).tolist())
        drawers = [int(Path(id_).stem) for id_ in dataset.ids.take(list(range(dataset.rows)))]
        return [
            "val" if alphabet_of(name) in held else "train" if drawer <= self.drawers else None
            for name, drawer in zip(names, drawers, strict=True)
        ]

    def _open(self) -> Store:
        if (self.folder / "store").is_dir():
            return Store.open(self.folder / "store")
        self._write_images()
        store = Store.init(self.folder / "store")
        source = ImageFolder.open(str(self.images(SEEN)))
        add_rows(store, source, SEEN, list_source(store, source, SEEN))
        return store

    def _write_images(self) -> None:
        with np.load(self.file) as held:
            arrays = {name: held[name] for name in ("images", "labels", "split", "drawer", "class_names")}
        for image, label, split, drawer in zip(
            *(arrays[n] for n in ("images", "labels", "split", "drawer")), strict=True
        ):
            character = str(arrays["class_names"][label]).replace("/", ".")
            path = self.images(UNSEEN if split else SEEN) / character / f"{int(drawer):02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def alphabet_of(class_name: str) -> str:
    """Of a character's class."""
    return class_name.partition(".")[0]


if __name__ == "__main__":
    main()
