"""Images that frozen trunks have seen, as grounds for comparisons: four scenarios, test classes seen or unseen in training.

Old is a head on the first trunk's features, new a head on the last one's. Test `seen`: 60 % of each class's
images train, 10 % validate, 30 % test; test `unseen`: 40 % of the classes train, 10 % validate, 50 % test. Of the training
rows, old saw 30 % of the images of every class (`…data`) or of the classes (`…class`); new sees all (`ex…`), or those
that old did not see (`op…`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from comparison import Ground

from featstore.convert import import_features
from featstore.maps import apply_map
from featstore.store import Store, split_dataset
from featstore_training import TrainConfig, train

__all__ = ["SCENARIOS", "TESTS", "WIDTH", "Trunks"]

WIDTH = 128
By = Literal["image", "class"]
SCENARIOS: dict[str, tuple[By, bool]] = {  # what old's share is a share of, and whether new sees that share too
    "exclass": ("class", True),
    "exdata": ("image", True),
    "opclass": ("class", False),
    "opdata": ("image", False),
}
TESTS: dict[str, tuple[By, dict[str, float]]] = {
    "unseen": ("class", {"train": 0.4, "val": 0.1, "test": 0.5}),
    "seen": ("image", {"train": 0.6, "val": 0.1, "test": 0.3}),
}
OLD_SHARE = 0.3
OTHER_SEED = 1000


@dataclass(frozen=True)
class Trunks:
    """A data set, divided for one kind of test.

    Attributes:
        folder: Of everything made.
        data: Where features/ and the data set's folder are.
        test: Kind of test.
        epochs: Of every run.
        name: Of the dataset in the store.
        files: What the data set's files are called.
        models: The trunks, the old one first, the new one last.
        store: Made at the first use.
    """

    folder: Path
    data: Path
    test: str
    epochs: int
    name: str
    files: str
    models: tuple[str, ...]
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", self._open())

    def set(self, name: str) -> str:
        """Address of a feature set of the dataset."""
        return f"{self.name}/{name}"

    def ground(self, scenario: str, folder: Path, **more: Any) -> Ground:
        """A scenario as a ground; `more` are further fields of it."""
        by, extended = SCENARIOS[scenario]
        settings = {
            "new": self.set(self.models[-1]),
            "old": self.set(f"old-{by}-{{seed}}"),
            "old_run": str(self.folder / f"runs/old-{by}-{{seed}}"),
            "where": ["split{seed}=train", *([] if extended else [f"{by}{{seed}}=new"])],
            "val_where": ["split{seed}=val"],
            "width": WIDTH,
            "epochs": self.epochs,
        }
        sets = self.set(f"{scenario}-{{method}}-{{seed}}")
        return Ground(
            folder=folder,
            store=self.store,
            settings=settings,
            test=("split{seed}=test",),
            prepare=lambda seed: self.old(by, seed),
            encode=lambda run, as_: apply_map(self.store, run, self.set(self.models[-1]), as_),
            sets=sets,
            **more,
        )

    def old(self, by: By, seed: int, variant: str = "", share: float = OLD_SHARE, **settings: Any) -> Path:
        """Split the rows of a seed and make its old set `NAME/old-BY[-VARIANT]-SEED`; returns the old run."""
        self.split(seed)
        name = f"old-{by}{variant and '-'}{variant}-{seed}"
        where = [f"split{seed}=train"]
        if share < 1:
            column = f"{by}{seed}" if share == OLD_SHARE else f"{by}{round(100 * share)}of{seed}"
            self._divide({"old": share, "new": 1 - share}, by, seed, column, tuple(where))
            where.append(f"{column}=old")
        given: dict[str, Any] = {"loss": "independent", "width": WIDTH, "epochs": self.epochs, **settings}
        config = TrainConfig(
            new=self.set(self.models[0]),
            where=tuple(where),
            val_where=(f"split{seed}=val",),
            # the published numbers were made when a seed alone drew the first class weights: with the classes of the new
            # model, the same seed would have tied the two heads, and the reference would not have been at chance across
            seed=seed if by == "class" and share < 1 else OTHER_SEED + seed,
            **given,
        )
        run = self.folder / "runs" / name
        if not self.store.has_features(self.set(name)):
            train(self.store, config, run)
            apply_map(self.store, run, self.set(self.models[0]), self.set(name))
        return run

    def split(self, seed: int) -> None:
        """Column `splitSEED`: which rows train, validate and test."""
        by, parts = TESTS[self.test]
        self._divide(parts, by, seed, f"split{seed}", ())

    def _divide(self, parts: Mapping[str, float], by: By, seed: int, column: str, where: tuple[str, ...]) -> None:
        if column not in self.store.dataset(self.name).column_names:
            split_dataset(self.store, self.name, parts, by=by, seed=seed, column=column, where=where)

    def _open(self) -> Store:
        if (self.folder / "store").is_dir():
            return Store.open(self.folder / "store")
        store = Store.init(self.folder / "store")
        for model in self.models:
            import_features(
                store,
                self.data / "features" / f"{self.files}_{model}.npz",
                self.set(model),
                keys={"features": "emb", "ids": "path", "labels": "class_name"},
                rows_file=self.data / self.files / "index.csv",
            )
        return store
