"""What the forward studies share: both models stay as they are, and queries or the gallery are mapped.

The new model is the `independent` head of the backward study, its recipe chosen in the same way; old set, splits and
seeds are the same too. Adapters choose what they have to choose on validation rows. Networks have the published
schedule; their size is an option, because one processor core has to do for all runs. Every finished run leaves one file,
so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import METRICS, REFERENCE, Ground, choose, keep, report, report_raw, request, say
from numpy.typing import NDArray
from trunks import TESTS, WIDTH, Trunks

from featstore.evaluate import EvalRequest, evaluate_arrays
from featstore.extract import ExtractRequest, extract
from featstore.maps import UNCERTAINTY, load_map, map_block
from featstore.runs import read_card
from featstore.spaces import Space
from featstore.store import FeatureSet
from featstore_training import AdapterConfig, TrainConfig, fit_adapter, train
from featstore_training.recipes import find_recipe, merged

__all__ = ["CONTROLS", "ROWS", "SCENARIO", "Study", "parse"]

SCENARIO = "exclass"
STEPS = 5  # of a backfill: values at 0, 0.2, … 1
RANDOM_ORDERS = 3
SMALL_IMAGES = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}


@dataclass(frozen=True)
class Row:
    """A run of an adapter.

    Attributes:
        loss: Which.
        sides: Side-information: `simclr`, `stronger`, `permuted`, `trunk`.
        source: What stands in for the old set; None for the old set itself.
        gallery: Whether the gallery is mapped, or the queries.
        params: Settings.
    """

    loss: str
    sides: tuple[str, ...] = ()
    source: str | None = None
    gallery: bool = True
    params: dict[str, Any] = field(default_factory=dict)


ADAPTERS = {
    **{
        name: Row(name, gallery=False)
        for name in ("procrustes", "ridge", "lowrank", "local", "mlp", "posterior", "slerp")
    },
    "ridge, adjoint": Row("ridge:adjoint", gallery=False),
    **{f"{name} of gallery": Row(name) for name in ("procrustes", "ridge", "mlp")},
}
FORWARD = {
    "fct": Row("fct"),
    "fct + simclr": Row("fct", ("simclr",)),
    "fct + stronger frozen side": Row("fct", ("stronger",)),
    "fastfill": Row("fastfill"),
    "fastfill + simclr": Row("fastfill", ("simclr",)),
    "fct + simclr and stronger": Row("fct", ("simclr", "stronger")),
}
CONTROLS = {
    "fct + permuted simclr": Row("fct", ("permuted",)),
    "fct of simclr alone": Row("fct", source="simclr"),
    "fct + old trunk's raw feature": Row("fct", ("trunk",)),
    "fct of stronger side alone": Row("fct", source="stronger"),
}
PUBLISHED = {"fct + simclr, 2048 wide": Row("fct", ("simclr",), params={"hidden": 2048})}
ROWS = {**ADAPTERS, **FORWARD, **CONTROLS, **PUBLISHED}


@dataclass
class Study:
    """One data set and kind of test.

    Attributes:
        trunks: The data.
        out: Where everything is kept.
        stronger: Trunk whose features are the stronger side.
        hidden: Width of the joined layers of FCT.
        side_epochs: Of SimCLR.
        asked: Further fields of every evaluation.
        other_old: Another old model than the study's: name of its runs and sets without `-SEED`, and what makes that of a seed.
    """

    trunks: Trunks
    out: Path
    stronger: str
    hidden: int
    side_epochs: int
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

    def run(self, rows: dict[str, Row], seed: int) -> None:
        """Whatever is not kept yet of a seed."""
        ground = self.ground
        report(ground, REFERENCE, seed, choose(ground, REFERENCE))
        new = ground.sets.format(method=REFERENCE, seed=seed)
        trunks = self.trunks
        raw = {"raw old": trunks.models[0], "raw new": trunks.models[-1], "stronger side": self.stronger}
        report_raw(ground, seed, {label: trunks.set(model) for label, model in raw.items()})
        for name, row in rows.items():
            if not ground.result(name, seed).is_file():
                began = time.monotonic()
                self._run(ground, name, row, seed, new)
                say(f"{ground.folder.name} {name} seed {seed}: {time.monotonic() - began:.1f} s")
        if any({"simclr"} & {*row.sides, row.source} for row in rows.values()):
            report_raw(ground, seed, {"simclr side": self._side("simclr", seed)})

    def _run(self, ground: Ground, name: str, row: Row, seed: int, new: str) -> None:
        old = ground.settings["old"].format(seed=seed)
        source = self._side(row.source, seed) if row.source else old
        sides = tuple(self._side(side, seed) for side in row.sides)
        where, val_where = (
            tuple(part.format(seed=seed) for part in ground.settings[key]) for key in ("where", "val_where")
        )
        forward = row.loss in ("fct", "fastfill")
        given: dict[str, Any] = (
            {"new_run": ground.folder / "runs" / f"{REFERENCE}-{seed}"} if row.loss == "fastfill" else {}
        )
        config = AdapterConfig(
            loss=row.loss,
            old=source,
            new=new,
            side=sides,
            direction="old-to-new" if row.gallery else "new-to-old",
            where=where,
            val_where=val_where,
            seed=seed,
            params={**({"hidden": self.hidden} if forward else {}), **row.params},
            **given,
        )
        run = ground.folder / "runs" / f"{name.replace(' ', '-').replace(chr(39), '')}-{seed}"
        fitted = fit_adapter(ground.store, config, run)
        beside = sides if row.gallery else tuple([old] if "old encoder" in fitted.query_time else [])
        option = "gallery_map" if row.gallery else "query_map"
        asked = request(ground, seed, old=source, new=new, side=beside, **{option: run})
        about = {
            "settings": config.model_dump(mode="json"),
            "chosen": fitted.chosen,
            "validation": fitted.validation,
            "query_time": fitted.query_time,
            "mapped": "gallery" if row.gallery else "queries",
            "bytes_a_row": 4 * sum(ground.store.features(item).width for item in (source, *sides)),
            "train_seconds": read_card(run).training["seconds"],
        }
        areas = self._areas(ground, asked, run, [source, *sides], new) if forward and not row.source else {}
        names = read_card(Path(ground.settings["old_run"].format(seed=seed))).training["head"]["class_names"]
        keep(ground, name, seed, asked, names, about, areas)

    def _areas(
        self, ground: Ground, asked: EvalRequest, run: Path, inputs: Sequence[str], new: str
    ) -> dict[str, NDArray[np.float64]]:
        """Every query's mean over the points of a backfill curve from mapped old rows to new ones, by order."""
        dataset = ground.store.dataset(self.trunks.name)
        queries = dataset.select((*asked.where, *asked.query_where))
        gallery = dataset.select((*asked.where, *asked.gallery_where))
        labels = dataset.labels.codes.astype(np.int64)
        place = {row: number for number, row in enumerate(gallery.tolist())}
        own = np.array([place.get(row, -1) for row in queries.tolist()])
        target = ground.store.features(new)
        mapped = map_block(
            load_map(run).module,
            np.concatenate([ground.store.features(item).gather(gallery) for item in inputs], axis=1, dtype=np.float32),
        )
        truth, query = target.gather(gallery), target.gather(queries)
        orders = {"random": [np.random.default_rng([0, n]).permutation(len(gallery)) for n in range(RANDOM_ORDERS)]}
        orders["distance"] = [np.argsort(-(1 - (_unit(mapped) * _unit(truth)).sum(axis=1)), kind="stable")]
        if (run / UNCERTAINTY).is_dir():
            doubt = map_block(load_map(run / UNCERTAINTY).module, mapped)[:, 0]
            orders["uncertainty"] = [np.argsort(-doubt, kind="stable")]

        def measured(share: int, order: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
            mixed = _unit(mapped).copy()
            fresh = order[: share * len(gallery) // STEPS]
            mixed[fresh] = _unit(truth)[fresh]
            return evaluate_arrays(
                query,
                mixed,
                query_labels=labels[queries],
                gallery_labels=labels[gallery],
                self_rows=own,
                metrics=METRICS,
            ).values

        first, last = measured(0, np.arange(len(gallery))), measured(STEPS, np.arange(len(gallery)))
        areas = {}
        for order, drawn in orders.items():
            inner = [measured(share, one) for share in range(1, STEPS) for one in drawn]
            for metric in METRICS:
                middle = np.mean([values[metric] for values in inner], axis=0) * (STEPS - 1)
                areas[f"area {order} {metric}"] = (first[metric] + middle + last[metric]) / (STEPS + 1)
        areas |= {f"area {end} {m}": values[m] for end, values in (("first", first), ("last", last)) for m in METRICS}
        return areas

    def _side(self, kind: str, seed: int) -> str:
        """Address of a set of side-information, made at its first use."""
        trunks, store = self.trunks, self.trunks.store
        if kind in ("stronger", "trunk"):
            return trunks.set(self.stronger if kind == "stronger" else trunks.models[0])
        name = trunks.set(f"{kind}-{seed}")
        if not store.has_features(name):
            if kind == "permuted":
                self._permute(store.features(self._side("simclr", seed)), name, seed)
            else:
                self._simclr(name, seed)
        return name

    def _simclr(self, name: str, seed: int) -> None:
        """Train the small side encoder on the images that the old model was trained on, and encode all with it."""
        began = time.monotonic()
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
        say(f"simclr {self.trunks.name}-{self.trunks.test} seed {seed}: {time.monotonic() - began:.1f} s")

    def _permute(self, features: FeatureSet, name: str, seed: int) -> None:
        """The same rows dealt out anew."""
        rows = np.random.default_rng([seed, 1]).permutation(features.valid_rows())
        space = Space.named(name.partition("/")[2], features.width)
        job = self.trunks.store.plan_features(
            features.dataset, name.partition("/")[2], space, np.dtype(np.float32), shard_rows=8192
        )
        for shard in job.pending() if job else ():
            start, stop = job.shard_range(shard)
            job.publish(shard, features.gather(rows[start:stop]).astype(np.float32))
        if job:
            job.commit({"permuted": features.ref})


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def parse(
    description: str,
    study: Callable[[str, argparse.Namespace], Study],
    tables: Callable[..., None],
    upgrades: Sequence[str] = ("same",),
) -> None:
    """The command line of a study: run what is missing, or write the tables.

    Args:
        description: Of the study.
        study: Makes it for a kind of test.
        tables: Writes the tables of a page.
        upgrades: Names of old models.
    """
    every = [name for name in ROWS if name not in PUBLISHED]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with features/ and images")
    parser.add_argument("--out", type=Path, required=True, help="where runs and results are kept")
    parser.add_argument("--tests", nargs="*", choices=list(TESTS), default=list(TESTS))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=every)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(5)))
    parser.add_argument("--epochs", type=int, default=10, help="of heads")
    parser.add_argument("--hidden", type=int, default=512, help="width of the joined layers of FCT; published: 2048")
    parser.add_argument("--side-epochs", type=int, default=40, help="of SimCLR")
    parser.add_argument("--upgrade", choices=upgrades, default=upgrades[0], help="from which old model")
    parser.add_argument("--backward", type=Path, default=None, help="with --table: folder of methods_cars.py")
    parser.add_argument("--table", type=Path, default=None, metavar="PAGE", help="write the tables, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        tables(arguments)
        return
    rows = {name: ROWS[name] for name in arguments.rows}
    for seed in arguments.seeds:
        for test in arguments.tests:
            study(test, arguments).run(rows, seed)
    say("done")
