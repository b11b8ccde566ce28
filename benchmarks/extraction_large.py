"""Extraction of many small images: does resident memory stay flat, and how long does a run take that finds everything cached?

    python benchmarks/extraction_large.py --images 100000 --folder /tmp/large

Prints, for one process: images/s; resident memory after each tenth of the run; and for a rerun with nothing to do, wall and CPU
seconds above imports beside the least that it could take, one walk over the folder with the size and time of each file. What
wall time has beyond CPU time is either waiting (for the disk) or the processor given to others, and the counts say which.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from featstore.encoders import Encoder, Preprocess
from featstore.extract import ExtractRequest, extract
from featstore.store import Store


def tiny() -> Encoder:
    """A network that costs next to nothing, so that what is measured is everything else."""
    network = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (16, 16)), nn.AvgPool1d(4), nn.Flatten())
    return Encoder(network, Preprocess(channels=1, size=16, mean=(0.5,), std=(0.5,)), architecture="tiny")


class Memory:
    """Resident memory at every tenth of a task."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def start(self, task: str, total: int, unit: str, *, done: int = 0) -> None:  # noqa: ARG002 - the listener's signature
        self.done, self.total = done, total

    def advance(self, n: int) -> None:
        self.done += n
        while len(self.found) < 10 * self.done // self.total:
            self.found.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)

    def note(self, message: str) -> None:
        print(message)


def make_images(folder: Path, count: int) -> None:
    """Small grey images of noise in a thousand folders."""
    generator = np.random.default_rng(0)
    for n in range(count):
        place = folder / f"c{n % 1000:04}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (12, 12), np.uint8)).save(place / f"{n:07}.png")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument(
        "--folder", type=Path, required=True, help="Scratch; the images in it are kept for the next time."
    )
    arguments = parser.parse_args()
    images, place = arguments.folder / f"images-{arguments.images}", arguments.folder / "store"
    if not images.is_dir():
        make_images(images, arguments.images)
    shutil.rmtree(place, ignore_errors=True)
    store = Store.init(place)
    request = ExtractRequest(
        source=str(images), dataset="d", models={"tiny": f"python:{Path(__file__).stem}:tiny"}, workers=1
    )
    memory = Memory()
    report = extract(store, request, memory)
    print(f"{report.encoded:,} images, {report.images_per_second:,.0f} images/s of one process")
    print("resident MiB by tenths:", " ".join(f"{value:.0f}" for value in memory.found))
    print(f"resident at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")
    for name, work in (
        ("walk", lambda: sum(entry.stat().st_size for f in os.scandir(images) for entry in os.scandir(f))),
        ("cached rerun", lambda: extract(store, request)),
    ):
        wall, cpu, before = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF)
        work()
        wall, cpu, after = (
            time.perf_counter() - wall,
            time.process_time() - cpu,
            resource.getrusage(resource.RUSAGE_SELF),
        )
        waits, taken = after.ru_nvcsw - before.ru_nvcsw, after.ru_nivcsw - before.ru_nivcsw
        print(
            f"{name}: {wall:.2f} s wall, {cpu:.2f} s CPU; it waited {waits:,} times, lost the processor {taken:,} times"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
