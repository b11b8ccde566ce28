"""Full mode: what a step costs with cached old features, beside one without any old side and one that runs the old model.

All three are the same run of the loop over the same images, in turns in one process on one thread; seconds are of the
processor. The cache should add less than 2 %; running an equal old model costs about a third more.

    python benchmarks/full_mode.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from featstore.encoders import build_architecture
from featstore.extract import ExtractRequest, extract
from featstore.store import Store
from featstore_training import TrainConfig, train
from featstore_training.backbone import Backbone
from featstore_training.column_cache import ColumnCache
from featstore_training.job import prepare
from featstore_training.loop import train_epoch
from featstore_training.processes import Processes
from featstore_training.runner import _build, _load_old, _load_rows


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "images", arguments.images)
        store = Store.init(folder / "store")
        shared = {"images": str(folder / "images"), "model": MODEL, "batch": 64, "val_fraction": 0, "workers": 0}
        first = TrainConfig(loss="independent", dataset="random", epochs=1, **shared)
        train(store, first, folder / "old")
        extract(store, ExtractRequest(source=shared["images"], dataset="random", models={"old": str(folder / "old")}))
        none = epoch_of(store, first)
        cached = epoch_of(store, TrainConfig(loss="l2", old="random/old", **shared))
        live = epoch_of(store, TrainConfig(loss="l2", old="random/old", **shared), run_old=True)
        contenders = {"no old side": none, "cached old features": cached, "old model runs": live}
        seconds = dict.fromkeys(contenders, float("inf"))
        for _ in range(arguments.rounds):
            for label, epoch in contenders.items():
                seconds[label] = min(seconds[label], spent(epoch))
    for label, value in seconds.items():
        print(
            f"{label:20} {arguments.images / value:8,.0f} images/s  {value / seconds['no old side']:5.3f} of no old side"
        )
    ratio = seconds["old model runs"] / seconds["cached old features"]
    print(f"running the old model costs {ratio:.2f} x the step with cached features")


MODEL: dict[str, Any] = {
    "name": "convnet",
    "config": {"in_channels": 1, "widths": [32, 32, 32, 32], "embedding": 64},
    "preprocess": {"size": 32, "channels": 1},
}


def make_images(root: Path, count: int) -> None:
    """Noise in 64 classes."""
    draw = np.random.default_rng(0)
    for number in range(count):
        path = root / f"c{number % 64}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32), dtype=np.uint8)).save(path)


def epoch_of(store: Store, config: TrainConfig, *, run_old: bool = False) -> Callable[[], object]:
    """An epoch of the loop; with `run_old`, every batch of images goes through a network like the new one as well."""
    job, cache = prepare(store, config), ColumnCache()
    old = _load_old(job, cache)
    rows = _load_rows(job, cache, old)
    state = _build(job, rows, old, Processes())
    if run_old:
        network = Backbone(build_architecture("convnet", MODEL["config"]), normalise=False).eval()
        state.module.register_forward_pre_hook(lambda _, given: torch.no_grad()(network)(given[0]) is None or None)
    return lambda: train_epoch(state, rows, job.config)


def spent(function: Callable[[], object]) -> float:
    """Seconds of this process."""
    began = time.process_time()
    function()
    return time.process_time() - began


if __name__ == "__main__":
    main()
