"""Reading and writing a feature set, as ratios to a raw memory map of the same rows measured in the same run.

Each number is the best time of a raw `.npy` memory map over the best time of the contender, taken in turns: 1 is as fast, 0.5
takes twice as long. zarr-python and tensorstore read the files that featstore wrote; h5py reads a contiguous copy. Contenders
that are not installed are left out with a note. Memory is a fresh process's own (anonymous) memory above its imports after a
scan and 20 random batches; mapped pages of the file, which the system can take back, are not counted.

    python benchmarks/store.py --rows 400000 --width 512
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from store_engines import ENGINES, Engine, missing, write_featstore, write_raw, write_zarr
from store_large import opening
from store_processes import cold, memory

REPEATS = 5
WRITES = 3
BATCH = 1024
LOOKUPS = 2000
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
    writes = writing(folder, values)
    for kind in ENGINES.values():
        kind.write(folder, values)
    del values
    batches = [np.random.default_rng(n).integers(0, rows, BATCH) for n in range(20)]
    cold_reads = cold(folder, batches)  # before anything maps the files: mapped pages stay in memory
    engines: dict[str, Engine] = {name: kind(folder) for name, kind in ENGINES.items()}
    print(f"{'':22}" + "".join(f"{name:>13}" for name in engines) + f"{'reach':>8}")

    single = np.random.default_rng(1).integers(0, rows, LOOKUPS).tolist()
    names = [f"image-{row:09d}.jpg" for row in single]
    line("full scan", engines, lambda engine: engine.scan())
    # engines that decode whole chunks take seconds for one batch: they get one, against raw's same one
    quick = {name: engine for name, engine in engines.items() if engine.random_access or slow}
    many = ratios(quick, lambda engine: [engine.gather(batch) for batch in batches], REPEATS)
    one = ratios(
        {"raw": engines["raw"], **{name: engine for name, engine in engines.items() if name not in quick}},
        lambda engine: engine.gather(batches[0]),
        1,
    )
    show("random rows", {**one, **many})
    few = [single[:20], single]
    show("single row", {
        **ratios({n: e for n, e in engines.items() if n == "raw" or n not in quick}, partial(rows_of, few[0]), 1),
        **ratios(quick, partial(rows_of, few[1]), REPEATS),
    })  # fmt: skip
    by_id = {name: engine for name, engine in engines.items() if hasattr(engine, "by_id")}
    line("row by id", by_id, lambda engine: [engine.by_id(name) for name in names])
    show("random rows, cold", cold_reads)
    show("write + fsync", writes)
    print(f"{'own memory, MB':22}" + "".join(f"{memory(name, folder, batches):13.0f}" for name in engines))


def rows_of(chosen: list[int], engine: Engine) -> None:
    """Single rows, one call each."""
    for row in chosen:
        engine.row(row)


def line(work: str, engines: dict[str, Engine], call: Callable[[Engine], object]) -> None:
    """Measure and print one kind of work."""
    show(work, ratios(engines, call, REPEATS))


def show(work: str, found: dict[str, float]) -> None:
    """Print one line of the table."""
    cells = [f"{found[name]:13.3g}" if name in found else " " * 13 for name in ENGINES]
    print(f"{work:22}" + "".join(cells) + f"{REACH[work]:8}", flush=True)


def ratios(engines: dict[str, Engine], call: Callable[[Engine], object], repeats: int) -> dict[str, float]:
    """Best time of raw over best time of each engine, all taken in turns after one warm-up each."""
    best: dict[str, float] = dict.fromkeys(engines, float("inf"))
    if repeats > 1:
        for engine in engines.values():
            call(engine)
    for _ in range(repeats):
        for name, engine in engines.items():
            best[name] = min(best[name], seconds(lambda engine=engine: call(engine)))
    return {name: best["raw"] / value for name, value in best.items()}


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
