"""The forward path between heads on frozen trunks: what the studies of cars and of groceries share."""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comparison import REFERENCE, Ground, choose, report
from forward_study import Study, common_options, run_missing
from trunks import TESTS, WIDTH, Trunks

from featstore.extract import ExtractRequest, extract
from featstore_training import TrainConfig, train
from featstore_training.recipes import find_recipe, merged

__all__ = ["SCENARIO", "TrunkStudy", "folders", "parse"]

SCENARIO = "exclass"
SMALL_IMAGES = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}


@dataclass
class TrunkStudy(Study):
    """One data set and kind of test.

    Attributes:
        trunks: The data.
        out: Where everything is kept.
        stronger: Trunk whose features are the stronger side.
        asked: Further fields of every evaluation.
        other_old: Another old model than the study's: name of its runs and sets without `-SEED`, and what makes that of a seed.
    """

    trunks: Trunks
    out: Path
    stronger: str
    asked: dict[str, Any] = field(default_factory=dict)
    other_old: tuple[str, Callable[[int], object]] | None = None

    @property
    def ground(self) -> Ground:
        """The question, as the backward study asks it, or with another old model."""
        name = f"{self.trunks.name}-{self.trunks.test}"
        if self.other_old is None:
            return self.trunks.ground(SCENARIO, self.out / name, asked=self.asked)
        old, prepare = self.other_old
        ground = self.trunks.ground(SCENARIO, self.out / f"{name}-{old}", asked=self.asked)
        other = {
            "old": self.trunks.set(f"{old}-{{seed}}"),
            "old_run": str(self.trunks.folder / f"runs/{old}-{{seed}}"),
        }
        sets = self.trunks.set(f"{old}-{{method}}-{{seed}}")
        return replace(ground, settings={**ground.settings, **other}, prepare=prepare, sets=sets)

    def raw(self, seed: int) -> dict[str, str]:
        """What the trunks do without a head."""
        del seed  # they were trained once
        models = {"raw old": self.trunks.models[0], "raw new": self.trunks.models[-1], "stronger side": self.stronger}
        return {label: self.set(model) for label, model in models.items()}

    def set(self, name: str) -> str:
        """Address of a feature set of the dataset."""
        return self.trunks.set(name)

    def reference(self, seed: int) -> None:
        """The unconstrained head on the new trunk."""
        ground = self.ground
        report(ground, REFERENCE, seed, choose(ground, REFERENCE))

    def frozen(self, kind: str, seed: int) -> str:
        """Features of a trunk."""
        del seed
        return self.set(self.stronger if kind == "stronger" else self.trunks.models[0])

    def simclr(self, name: str, seed: int) -> None:
        """Train the small side encoder on the images that the old model was trained on, and encode all with it."""
        images = self.out / "images" / self.trunks.files
        if not images.is_dir():
            with tarfile.open(self.trunks.data / self.trunks.files / f"{self.trunks.files}.tar") as archive:
                archive.extractall(images, filter="data")
        small = {
            "images": str(images),
            "dataset": self.trunks.name,
            "model": {
                "name": "convnet",
                "config": {"widths": [16, 32, 64, 128], "embedding": WIDTH},
                "preprocess": SMALL_IMAGES,
            },
            "where": (f"split{seed}=train", f"class{seed}=old"),
            "epochs": self.side_epochs,
            "seed": seed,
        }
        run = self.trunks.folder / "runs" / f"simclr-{seed}"
        train(self.trunks.store, TrainConfig(**merged(find_recipe("simclr").base, small)), run)
        models = {name.partition("/")[2]: f"run:{run}"}
        extract(
            self.trunks.store, ExtractRequest(source=str(images), dataset=self.trunks.name, models=models, workers=1)
        )


def folders(out: Path, name: str, old: str = "") -> dict[str, Path]:
    """Folders of the grounds of a data set by kind of test, of those of another old model if one is named."""
    return {test: out / f"{name}-{test}{old and '-'}{old}" for test in TESTS}


def parse(
    description: str,
    study: Callable[[str, argparse.Namespace], Study],
    tables: Callable[..., None],
    upgrades: Sequence[str] = (),
) -> None:
    """The command line of a study: run what is missing, or write the tables.

    Args:
        description: Of the study.
        study: Makes it for a kind of test.
        tables: Writes the tables of a page.
        upgrades: Names of other old models; a study with them stands beside the backward study of the same data.
    """
    parser = common_options(description)
    parser.add_argument("--tests", nargs="*", choices=list(TESTS), default=list(TESTS))
    parser.add_argument("--epochs", type=int, default=10, help="of heads")
    if upgrades:
        parser.add_argument("--upgrade", choices=["same", *upgrades], default="same", help="from which old model")
        parser.add_argument("--backward", type=Path, default=None, help="with --table: folder of methods_cars.py")
    arguments = parser.parse_args()
    if arguments.table:
        tables(arguments)
    else:
        run_missing([study(test, arguments) for test in arguments.tests], arguments)
