"""What the forward studies share: both models stay as they are, and queries or the gallery are mapped.

The new model is the `independent` row of the backward study, its recipe chosen in the same way; old set, splits and
seeds are the same too. Adapters choose what they have to choose on validation rows. Networks have the published
schedule; their size is an option, because one processor core has to do for all runs. Every finished run leaves one file,
so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import METRICS, REFERENCE, Ground, keep, report_raw, request, say
from numpy.typing import NDArray

from featstore.evaluate import EvalRequest, EvalResult, evaluate, evaluate_arrays
from featstore.maps import UNCERTAINTY, load_map, map_block
from featstore.runs import read_card
from featstore.spaces import Space
from featstore_training import AdapterConfig, fit_adapter

__all__ = ["CONTROLS", "ROWS", "Study", "common_options", "run_missing"]

STEPS = 5  # of a backfill: values at 0, 0.2, … 1
ENDS_AGREE = 1e-4
RANDOM_ORDERS = 3


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
class Study(ABC):
    """One data set and kind of test; subclasses know whose images and models these are.

    Attributes:
        hidden: Width of the joined layers of FCT.
        side_epochs: Of SimCLR.
    """

    hidden: int
    side_epochs: int

    @property
    @abstractmethod
    def ground(self) -> Ground:
        """The question."""

    @abstractmethod
    def raw(self, seed: int) -> dict[str, str]:
        """Sets that are measured as they are, by the name of their row."""

    @abstractmethod
    def set(self, name: str) -> str:
        """Address of a feature set over the rows that maps are fitted on."""

    @abstractmethod
    def reference(self, seed: int) -> None:
        """Have the new model trained and measured, unless that is kept already."""

    @abstractmethod
    def frozen(self, kind: str, seed: int) -> str:
        """Address of a side that nothing is trained for here: `stronger` or `trunk`."""

    @abstractmethod
    def simclr(self, name: str, seed: int) -> None:
        """Train the small side encoder on the images that the old model was trained on, and encode all as set `name`."""

    def run(self, rows: dict[str, Row], seed: int) -> None:
        """Whatever is not kept yet of a seed."""
        ground = self.ground
        self.reference(seed)
        new = ground.sets.format(method=REFERENCE, seed=seed)
        report_raw(ground, seed, self.raw(seed))
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
        areas = self._areas(ground, asked, run) if forward and not row.source else {}
        names = read_card(Path(ground.settings["old_run"].format(seed=seed))).training["head"]["class_names"]
        keep(ground, name, seed, asked, names, about, areas)

    def _areas(self, ground: Ground, asked: EvalRequest, run: Path) -> dict[str, NDArray[np.float64]]:
        """Every query's mean over the points of a backfill curve from mapped old rows to new ones, by order."""
        inputs = [ground.store.features(str(item)) for item in (asked.old, *asked.side)]
        target, dataset = ground.store.features(str(asked.new)), inputs[0].dataset
        queries = dataset.select((*asked.where, *asked.query_where))
        gallery = dataset.select((*asked.where, *asked.gallery_where))
        labels = dataset.labels.codes.astype(np.int64)
        place = {row: number for number, row in enumerate(gallery.tolist())}
        own = np.array([place.get(row, -1) for row in queries.tolist()])
        mapped = map_block(
            load_map(run).module,
            np.concatenate([item.gather(gallery) for item in inputs], axis=1, dtype=np.float32),
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
        _check_ends(evaluate(ground.store, asked), {"new/mapped-old": first, "new/new": last})
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
        if kind in ("stronger", "trunk"):
            return self.frozen(kind, seed)
        name, store = self.set(f"{kind}-{seed}"), self.ground.store
        if not store.has_features(name):
            if kind == "permuted":
                self._permute(self._side("simclr", seed), name, seed)
            else:
                began = time.monotonic()
                self.simclr(name, seed)
                say(f"{self.ground.folder.name} simclr seed {seed}: {time.monotonic() - began:.1f} s")
        return name

    def _permute(self, side: str, name: str, seed: int) -> None:
        """The same rows dealt out anew, in every dataset that has them."""
        store = self.ground.store
        for given, made in {side: name, self.ground.tested(side): self.ground.tested(name)}.items():
            features, called = store.features(given), made.partition("/")[2]
            rows = np.random.default_rng([seed, 1]).permutation(features.valid_rows())
            space = Space.named(called, features.width)
            job = store.plan_features(features.dataset, called, space, np.dtype(np.float32), shard_rows=8192)
            for shard in job.pending() if job else ():
                start, stop = job.shard_range(shard)
                job.publish(shard, features.gather(rows[start:stop]).astype(np.float32))
            if job:
                job.commit({"permuted": features.ref})


def _check_ends(result: EvalResult, ends: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> None:
    """A curve begins and ends at cells of the matrix; rows that were normalised once more may change an order of near ties."""
    for role, values in ends.items():
        for metric in METRICS:
            cell, end = result.cell(role).metrics[metric], float(np.nanmean(values[metric]))
            if abs(cell - end) > ENDS_AGREE:
                raise AssertionError(f"the curve has {metric} {end:.6f} where {role} has {cell:.6f}")


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def common_options(description: str, rows: Sequence[str] = tuple(ROWS)) -> argparse.ArgumentParser:
    """The options that every study has.

    Args:
        description: Of the study.
        rows: What it can measure.
    """
    every = [name for name in rows if name not in PUBLISHED]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with features/ and images")
    parser.add_argument("--out", type=Path, required=True, help="where runs and results are kept")
    parser.add_argument("--rows", nargs="*", choices=rows, default=every)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(5)))
    parser.add_argument("--hidden", type=int, default=512, help="width of the joined layers of FCT; published: 2048")
    parser.add_argument("--side-epochs", type=int, default=40, help="of SimCLR")
    parser.add_argument("--table", type=Path, default=None, metavar="PAGE", help="write the tables, run nothing")
    return parser


def run_missing(studies: Sequence[Study], arguments: argparse.Namespace) -> None:
    """Whatever is not kept yet, one seed after another."""
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        for study in studies:
            study.run({name: ROWS[name] for name in arguments.rows}, seed)
    say("done")
