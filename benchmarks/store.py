"""Reading and writing a feature set, as ratios to a raw memory map of the same rows measured in the same run.

Each number is the time of a raw `.npy` memory map over the time of the contender: 1 is as fast, 0.5 takes twice as long.
The page cache is warm. zarr-python reads the files that featstore wrote, h5py a contiguous copy of the rows.

    python benchmarks/store.py --rows 400000 --width 512
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import zarr

from featstore.spaces import Space
from featstore.store import Dataset, FeatureSet, NewRows, Store, plan_shard_rows

BATCH = 1024
LOOKUPS = 2000
REPEATS = 5


def main() -> None:
    """Parse, measure both dtypes, print."""
    parser = argparse.ArgumentParser(description="Store against raw memory map.")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work; default: the system's temporary folder"
    )
    arguments = parser.parse_args()
    for dtype in ("float32", "float16"):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            measure(Path(folder), arguments.rows, arguments.width, np.dtype(dtype))


def measure(folder: Path, rows: int, width: int, dtype: np.dtype) -> None:
    """One table."""
    values = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32).astype(dtype)
    store = Store.init(folder / "store")
    dataset = store.create_dataset("d", NewRows(ids=[f"image-{number:09d}.jpg" for number in range(rows)]))
    write = writing(folder, store, dataset, values)
    write_store(store, dataset, "f", values)
    np.save(folder / "raw.npy", values)
    with h5py.File(folder / "raw.h5", "w") as file:
        file["features"] = values
    del values

    raw = np.load(folder / "raw.npy", mmap_mode="r")
    features = store.features("d/f")
    group = zarr.open_array(
        f"{store.location}/features/d/f/segments/{features.record.segments[0].name}/features", mode="r"
    )
    batches = [np.random.default_rng(n).integers(0, rows, BATCH) for n in range(20)]
    single = np.random.default_rng(1).integers(0, rows, LOOKUPS).tolist()
    names = dataset.ids.take(single)
    places = {name: row for row, name in enumerate(dataset.ids)}
    few = batches[:1]
    with h5py.File(folder / "raw.h5", "r") as file:
        hdf5 = file["features"]
        print(f"\n{rows:,} × {width} {dtype.name}     ratio to a raw memory map")
        scan = lambda: [np.array(raw[start : start + BATCH]) for start in range(0, rows, BATCH)]  # noqa: E731
        line("full scan", scan, {
            "featstore": lambda: [np.array(block) for _, block in features.scan()],
            "zarr-python": lambda: [group[start : start + 65536] for start in range(0, rows, 65536)],
            "h5py": lambda: [hdf5[start : start + BATCH] for start in range(0, rows, BATCH)],
        })  # fmt: skip
        line(f"{BATCH:,} random rows", lambda: [raw[batch] for batch in batches], {
            "featstore": lambda: [features.gather(batch) for batch in batches],
        })  # fmt: skip
        line("  one batch", lambda: [raw[batch] for batch in few], {
            "zarr-python": lambda: [group.oindex[np.sort(batch)] for batch in few],
            "h5py": lambda: [hdf5[np.unique(batch)] for batch in few],
        }, repeats=1)  # fmt: skip
        line("single row", lambda: [np.array(raw[row]) for row in single], {
            "featstore": lambda: [features.row(row) for row in single],
            "h5py": lambda: [hdf5[row] for row in single],
        })  # fmt: skip
        line("single row by id", lambda: [np.array(raw[places[name]]) for name in names], {
            "featstore": lambda: [by_id(features, name) for name in names],
        })  # fmt: skip
    print(f"{'write + fsync':22}featstore {write:.2f}")
    began = time.perf_counter()
    Store.open(folder / "store").features("d/f")
    print(f"{'open':22}featstore {1000 * (time.perf_counter() - began):.1f} ms")


def writing(folder: Path, store: Store, dataset: Dataset, values: np.ndarray) -> float:
    """Ratio of durable writes, each pair into fresh files."""
    pairs = []
    for number in range(3):
        raw = seconds(lambda number=number: write_raw(folder / f"raw{number}.bin", values))
        pairs.append(raw / seconds(lambda number=number: write_store(store, dataset, f"w{number}", values)))
    return float(np.median(pairs))


def by_id(features: FeatureSet, name: str) -> np.ndarray:
    """One row by its id."""
    return features.row(features.dataset.ids.row_of(name))


def line(
    name: str, raw: Callable[[], object], contenders: dict[str, Callable[[], object]], *, repeats: int = REPEATS
) -> None:
    """Measure and print one kind of work."""
    cells = [f"{who} {ratio(raw, work, repeats):.3g}" for who, work in contenders.items()]
    print(f"{name:22}" + "   ".join(cells), flush=True)


def ratio(raw: Callable[[], object], work: Callable[[], object], repeats: int) -> float:
    """Best time of `raw` over best time of `work`, taken in turns after one warm-up each (writes are never repeated)."""
    if repeats > 1:
        raw(), work()
    pairs = [(seconds(raw), seconds(work)) for _ in range(repeats)]
    return min(first for first, _ in pairs) / min(second for _, second in pairs)


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def write_raw(path: Path, values: np.ndarray) -> None:
    """The least that writing durably can be: one file, one fsync."""
    with path.open("wb", buffering=0) as stream:
        view = memoryview(values.view(np.uint8).reshape(-1))
        while view:
            view = view[os.write(stream.fileno(), view) :]
        os.fsync(stream.fileno())


def write_store(store: Store, dataset: Dataset, name: str, values: np.ndarray) -> None:
    """Plan, publish every shard, seal, commit."""
    rows = plan_shard_rows(len(values), values[0].nbytes)
    job = store.plan_features(dataset, name, Space.named("bench", values.shape[1]), values.dtype, shard_rows=rows)
    for shard in job.pending():
        job.publish(shard, values[slice(*job.shard_range(shard))])
    job.commit({})


if __name__ == "__main__":
    main()
