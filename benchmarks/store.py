"""Reading and writing a feature set, as ratios to a raw memory map of the same rows measured in the same run.

Each number is the best time of a raw `.npy` memory map over the best time of the contender, taken in turns: 1 is as fast, 0.5
takes twice as long. Each contender runs in a process of its own beside raw. zarr-python and tensorstore read the files that
featstore wrote; h5py reads a contiguous copy. Contenders that are not installed are left out with a note. Cold means that all
files are dropped from memory before every single batch, of every contender alike, and only the reads are timed. Memory is a
fresh process's own (anonymous) memory above its imports after a scan and 20 random batches; mapped pages of the file, which
the system can take back, are not counted.

    python benchmarks/store.py --rows 400000 --width 512
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from store_engines import ENGINES, missing, write_featstore, write_raw, write_zarr
from store_large import opening
from store_processes import ADVISED, cold, memory, warm

WRITES = 3
BATCH = 1024
REACH = {
    "full scan": 0.9,
    "random rows": 0.6,
    "single row": 0.7,
    "row by id": 0.3,
    "random rows, cold": 1.2,
    "write + fsync": 0.8,
}


def main() -> None:
    """Parse, measure both dtypes, print."""
    parser = argparse.ArgumentParser(description="Store against raw memory map.")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--slow", action="store_true", help="also measure random rows of engines that take minutes")
    arguments = parser.parse_args()
    for line in missing():
        print(line)
    for dtype in ("float32", "float16"):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            measure(Path(folder), arguments.rows, arguments.width, np.dtype(dtype), slow=arguments.slow)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        opening(Path(folder))


def measure(folder: Path, rows: int, width: int, dtype: np.dtype, *, slow: bool) -> None:
    """One table."""
    values = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32).astype(dtype)
    print(f"\n{rows:,} × {width} {dtype.name}: ratio to a raw memory map")
    found = {"write + fsync": writing(folder, values)}
    for kind in ENGINES.values():
        kind.write(folder, values)
    del values
    batches = [np.random.default_rng(n).integers(0, rows, BATCH) for n in range(20)]
    for name in ENGINES:
        for work, value in warm(name, folder, batches, slow=slow).items():
            found.setdefault(work, {})[name] = value
    # last, because pages that came back one by one are scanned more slowly than those that were written in a stretch
    found["random rows, cold"] = cold(folder, batches)
    print(f"{'':22}" + "".join(f"{name:>13}" for name in ENGINES) + f"{'reach':>8}")
    for work, reach in REACH.items():
        cells = [f"{found[work][name]:13.3g}" if name in found[work] else " " * 13 for name in ENGINES]
        print(f"{work:22}" + "".join(cells) + f"{reach:8}")
    print(f"{'own memory, MB':22}" + "".join(f"{memory(name, folder, batches):13.0f}" for name in ENGINES))
    advised = found["random rows, cold"]["featstore"] / found["random rows, cold"][ADVISED]
    print("cold: all files dropped from memory before every batch of every contender, only the reads timed;")
    print(f"  featstore against a raw map that is advised of random reads: {advised:.3g}", flush=True)


def writing(folder: Path, values: np.ndarray) -> dict[str, float]:
    """Ratios of durable writes: medians over rounds, each into fresh files."""
    works = {"raw": write_raw, "featstore": write_featstore, "zarr-python": write_zarr}
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(WRITES):
        for name, work in works.items():
            place = folder / f"write-{name}-{number}"
            times[name].append(seconds(lambda work=work, place=place: work(place, values)))
    return {name: float(np.median(times["raw"]) / np.median(found)) for name, found in times.items()}


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
