"""Applying maps to a stored gallery, against what no implementation can do without, in one run, products on one thread.

GEMM is the products of the map alone on tensors in memory, in the fastest of several batch sizes; *in memory* is the whole map
on such tensors; scan reads every row of the gallery from its shards; copy writes what was scanned to a plain file and syncs
it. A gallery of FCT is compared with encoding
the images again with EfficientNet-Lite0 at 128 pixels, pixels decoded already, both on one core. Seconds are of the
processor, so other work on the machine disturbs little; for what waits for a disk wall seconds stand beside.

    python benchmarks/forward.py --rows 2000000
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from featstore.encoders import build_architecture
from featstore.maps import AffineConfig, BranchesConfig, FeatureMap, apply_map, build_map, map_block, save_map
from featstore.spaces import Space
from featstore.store import FeatureSet, NewRows, Store

WIDTH = 128
BATCHES = (512, 1024, 4096, 16384)
IMAGE = 128  # pixels


class Took(NamedTuple):
    """Seconds of the processor and of the wall."""

    processor: float
    wall: float


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--fct-rows", type=int, default=None, help="rows of FCT, which takes minutes a million")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rate = fct(Path(folder) / "fct", arguments.fct_rows or arguments.rows)
        encoder = encoding()
        print(
            f"upgrading a gallery: {rate:,.0f} rows/s by fct, {encoder:,.1f} images/s by encoding: {rate / encoder:,.0f}×"
        )
        procrustes(Path(folder) / "procrustes", arguments.rows, arguments.times)


def fct(folder: Path, rows: int) -> float:
    """FCT 128/128/128 at its published size, with side-information; rows per second of the processor."""
    config = BranchesConfig(side=(WIDTH,))
    module = build_map(config, 2 * WIDTH, WIDTH)
    store, run = gallery(folder, rows, module, ("old", "side"))
    weights = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    bare = products(weights, min(rows, 50_000)) / min(rows, 50_000)
    applied = took(lambda: apply_map(store, run, "g/old", "g/new", side=["g/side"])).processor / rows
    line("fct in memory", in_memory(module), {"GEMM": 1 / bare})
    line("fct 128/128/128", 1 / applied, {"GEMM": 1 / bare})
    return 1 / applied


def procrustes(folder: Path, rows: int, times: int) -> None:
    """A square map, which is over before the disk is."""
    module = build_map(AffineConfig(), WIDTH, WIDTH)
    nn.init.zeros_(module.body[1].bias)  # as fitted; untrained it is drawn
    store, run = gallery(folder, rows, module, ("old",))
    bare = products([module.body[1].weight], rows)
    line("procrustes in memory", in_memory(module), {"GEMM": rows / bare})
    source = store.features("g/old")
    found: dict[str, list[Took]] = {"apply": [], "scan": [], "copy": []}
    for number in range(times):
        found["apply"].append(took(partial(apply_map, store, run, "g/old", f"g/new{number}")))
        found["scan"].append(took(lambda: scan(source)))
        found["copy"].append(took(lambda: copy(source, folder / "copy")))
    best = {name: Took(*(min(column) for column in zip(*every, strict=True))) for name, every in found.items()}
    rates = {"GEMM": rows / bare, "scan": rows / best["scan"].processor, "copy": rows / best["copy"].processor}
    line("procrustes 128/128", rows / best["apply"].processor, rates)
    line("  by the wall", rows / best["apply"].wall, {"copy": rows / best["copy"].wall})


def line(name: str, rate: float, limits: dict[str, float]) -> None:
    """Rows per second and ratios to limits."""
    shown = ", ".join(f"{limit} {value:,.0f} ({rate / value:.2f})" for limit, value in limits.items())
    print(f"{name:20} {rate:,.0f} rows/s; {shown}", flush=True)


def gallery(folder: Path, rows: int, module: FeatureMap, names: Sequence[str]) -> tuple[Store, Path]:
    """A store with sets of random rows, and the run folder of a map of them."""
    store = Store.init(folder / "store")
    dataset = store.create_dataset("g", NewRows([f"{row:07d}" for row in range(rows)]))
    draw = np.random.default_rng(0)
    spaces = [Space.named(name, WIDTH) for name in names]
    for space in spaces:
        job = store.plan_features(dataset, space.name, space, np.dtype(np.float32), shard_rows=1 << 17)
        for shard in job.pending() if job else ():
            start, stop = job.shard_range(shard) if job else (0, 0)
            if job:
                job.publish(shard, draw.standard_normal((stop - start, WIDTH), dtype=np.float32))
        if job:
            job.commit({})
    save_map(
        folder / "run",
        module,
        config=module.config,
        input_space=spaces[0],
        name="new",
        compatible_with=(),
        training={},
        side_spaces=tuple(spaces[1:]),
    )
    return store, folder / "run"


@torch.inference_mode()
def products(weights: Sequence[torch.Tensor], rows: int) -> float:
    """Seconds of the processor for the products with these matrices [D_out, D_in], in the fastest batch size."""
    best = float("inf")
    for batch in BATCHES:
        inputs = [torch.randn(batch, weight.shape[1]) for weight in weights]
        outputs = [torch.empty(batch, weight.shape[0]) for weight in weights]
        turned = [weight.T for weight in weights]

        def work(
            size: int = batch, of: Sequence[tuple[torch.Tensor, ...]] = tuple(zip(inputs, turned, outputs, strict=True))
        ) -> None:
            for _ in range(max(1, rows // size)):
                for left, right, out in of:
                    torch.mm(left, right, out=out)

        work()
        best = min(best, took(work).processor * rows / (max(1, rows // batch) * batch))
    return best


def in_memory(module: FeatureMap, rows: int = 20_000, times: int = 10) -> float:
    """Rows per second of the processor through a map, from an array into another."""
    block = np.random.default_rng(1).standard_normal((rows, module.in_width), dtype=np.float32)
    out = np.empty((rows, module.out_width), np.float32)
    return rows / min(took(lambda: map_block(module, block, out)).processor for _ in range(times))


def scan(source: FeatureSet) -> float:
    """Every row is read."""
    return float(sum(block.sum(dtype=np.float32) for _, block in source.scan()))


def copy(source: FeatureSet, path: Path) -> None:
    """Every row is read and written to a plain file that is on the disk in the end."""
    with path.open("wb") as stream:
        for _, block in source.scan():
            stream.write(np.ascontiguousarray(block))
        stream.flush()
        os.fsync(stream.fileno())
    path.unlink()


@torch.inference_mode()
def encoding(batch: int = 16, times: int = 4) -> float:
    """Images per second of the processor through EfficientNet-Lite0."""
    network = (
        build_architecture("efficientnet_lite", {"variant": 0}, seed=0).eval().to(memory_format=torch.channels_last)
    )
    images = torch.randn(batch, 3, IMAGE, IMAGE).contiguous(memory_format=torch.channels_last)
    network(images)
    return batch / min(took(lambda: network(images)).processor for _ in range(times))


def took(work: Callable[[], object]) -> Took:
    """Seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Took(time.process_time() - processor, time.perf_counter() - wall)


if __name__ == "__main__":
    main()
