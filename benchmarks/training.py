"""Head mode against what no loop can do without, in one run on one thread: rows per second as a ratio.

The bare loop holds everything in tensors and does the GEMMs only: linear map, cosine softmax and prototype softmax, forward,
backward and Adam. Refreshes of NDPP and ODPP are compared with an epoch of 500,000 rows at the same number of classes,
extrapolated from measured steps. Rows of a set that is too large for memory are gathered from its shards batch by batch; the
same epoch over tensors says what that adds. Seconds are of the processor, so other work on the machine disturbs little.

    python benchmarks/training.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from featstore.convert import import_features
from featstore.maps import LinearConfig, build_map
from featstore.store import Store
from featstore_training import TrainConfig
from featstore_training.batches import CachedColumn, TrainingRows
from featstore_training.bridges import make_bridge
from featstore_training.checkpoint import TrainState
from featstore_training.current import CurrentFeatures
from featstore_training.heads import CosineSoftmax
from featstore_training.loop import make_optimizer, train_epoch
from featstore_training.objectives import ClassSide, find_objective, objective_params
from featstore_training.old_rows import Column, HeldColumn, OldRows

INPUTS, WIDTH, SCALE = 512, 256, 12.0
EPOCH_ROWS = 500_000


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10_000, help="classes for the refreshes")
    parser.add_argument("--stored", type=int, default=200_000, help="rows that are gathered from shards")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each, in turns")
    parser.add_argument("--folder", type=Path, help="where the shards are; default: the system's temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'batch':>6} {'loss':12} {'rows/s':>9} {'bare rows/s':>12} {'ratio':>6}")
    inputs, labels, old = make_rows(arguments.rows, arguments.classes)
    for batch in (256, 1024, 4096):
        for loss in ("independent", "bct", "odpp", "mixbct"):
            state, rows, config = make_run(loss, HeldColumn(inputs), labels, old, batch)
            ours = best(partial(train_epoch, state, rows, config))
            bare = best(partial(bare_epoch, inputs, labels, old, batch, prototypes=loss in ("bct", "odpp")))
            print(
                f"{batch:6} {loss:12} {len(labels) / ours:9,.0f} {len(labels) / bare:12,.0f} {ours / bare:6.2f}",
                flush=True,
            )
    print(
        f"\nrefresh at {arguments.many:,} classes as a share of an epoch of {EPOCH_ROWS:,} rows, the pass over them not counted"
    )
    inputs, labels, old = make_rows(2 * arguments.many, arguments.many)
    for loss in ("ndpp", "odpp"):
        state, rows, config = make_run(loss, HeldColumn(inputs), labels, old, 1024)
        epoch = best(partial(train_epoch, state, rows, config), times=1) * EPOCH_ROWS / len(labels)
        current = CurrentFeatures(state.module, state.bridge, rows, old)
        refresh = best(partial(state.objective.move, current), times=1)
        print(f"{loss:12} {refresh:6.1f} s of {epoch:6.0f} s: {refresh / epoch:.1%}", flush=True)
    from_shards(arguments)


def from_shards(arguments: argparse.Namespace) -> None:
    """Epochs over columns that are gathered from shards, in turns with the same over tensors."""
    print(
        f"\ngathered from float16 shards against tensors, {arguments.stored:,} rows, {arguments.classes:,} classes, batch 1,024"
    )
    inputs, labels, old = make_rows(arguments.stored, arguments.classes)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = Store.init(Path(folder) / "store")
        new = stored(store, "new", inputs, unit=False)
        cached = stored(store, "old", old.column.take(np.arange(len(old))), unit=True)
        for loss in ("independent", "bct", "odpp", "mixbct"):
            contenders = {
                "tensors": make_run(loss, HeldColumn(inputs), labels, old, 1024),
                "shards": make_run(loss, new, labels, OldRows(cached, labels, old.classes), 1024),
            }
            seconds = dict.fromkeys(contenders, float("inf"))
            for _ in range(arguments.rounds):
                for label, run in contenders.items():
                    seconds[label] = min(seconds[label], best(partial(train_epoch, *run), times=1))
            added = seconds["shards"] / seconds["tensors"] - 1
            print(f"{loss:12} {len(labels) / seconds['shards']:9,.0f} rows/s, {added:+.1%}", flush=True)


def stored(store: Store, name: str, held: Tensor, *, unit: bool) -> CachedColumn:
    """A column of rows on disk, as for a set that does not fit into memory."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as stream:
        np.save(stream, held.numpy())
        stream.flush()
        import_features(store, Path(stream.name), f"{name}/{name}", dtype="float16")
    features = store.features(f"{name}/{name}")
    return CachedColumn(features, np.arange(len(held)), unit=unit, resident_bytes=0)


def make_rows(count: int, classes: int) -> tuple[Tensor, Tensor, OldRows]:
    """Random inputs, labels and old features; every class has rows."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    old = functional.normalize(torch.randn(count, WIDTH, generator=draw), dim=1)
    return torch.randn(count, INPUTS, generator=draw), labels, OldRows(HeldColumn(old), labels, classes)


def make_run(
    loss: str, inputs: Column, labels: Tensor, old: OldRows, batch: int
) -> tuple[TrainState, TrainingRows, TrainConfig]:
    """A run before its first epoch."""
    config = TrainConfig(loss=loss, new="random/new", batch=batch)
    module, bridge = build_map(LinearConfig(), INPUTS, WIDTH), make_bridge(None, WIDTH, WIDTH)
    head = CosineSoftmax(old.classes, WIDTH, SCALE, torch.Generator().manual_seed(0))
    side = ClassSide(old.classes, config.epochs, old.prototypes(), old, bridge=bridge)
    objective = find_objective(loss)(objective_params(loss, {}), side)
    objective.begin()
    optimizer = make_optimizer(config, [module, bridge, head, objective])
    columns = {"old_feature": old.column} if loss == "mixbct" else {}
    rows = TrainingRows(inputs, labels, old.classes, columns)
    return TrainState(module, bridge, head, objective, optimizer, {}), rows, config


def bare_epoch(inputs: Tensor, labels: Tensor, old: OldRows, batch: int, *, prototypes: bool) -> None:
    """The GEMMs and nothing else."""
    linear, weight = nn.Linear(INPUTS, WIDTH), nn.Parameter(torch.randn(old.classes, WIDTH))
    fixed = old.prototypes().unit() if prototypes else None
    optimizer = torch.optim.Adam([*linear.parameters(), weight])
    for start in range(0, len(inputs), batch):
        feature, label = functional.normalize(linear(inputs[start : start + batch])), labels[start : start + batch]
        loss = functional.cross_entropy(SCALE * feature @ functional.normalize(weight, dim=1).T, label)
        if fixed is not None:
            loss = loss + functional.cross_entropy(SCALE * feature @ fixed.T, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def best(work: Callable[[], object], times: int = 3) -> float:
    """The fewest processor seconds."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


if __name__ == "__main__":
    main()
