"""Search: exact and through an index, against faiss's own exact search on the same rows in memory.

    python benchmarks/search.py [--rows 1000000] [--width 256] [--queries 1000]

Rows are clustered (10,000 classes), stored as float16 in a store in a temporary folder. All times are of this run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable

import faiss
import numpy as np

from featstore.evaluate.vectors import ArrayVectors, SetVectors
from featstore.search import build_index, exact_top_k, open_index
from featstore.spaces import Space
from featstore.store import NewRows, Store, plan_shard_rows

K = 10


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10_000, options.width)).astype(np.float32)
    rows = np.empty((options.rows, options.width), np.float16)
    for start in range(0, options.rows, 1 << 16):
        stop = min(start + (1 << 16), options.rows)
        noise = rng.normal(size=(stop - start, options.width)).astype(np.float32)
        rows[start:stop] = centres[rng.integers(0, len(centres), stop - start)] + noise
    query = centres[rng.integers(0, len(centres), options.queries)]
    query += rng.normal(size=query.shape).astype(np.float32)
    unit = rows.astype(np.float32)
    faiss.normalize_L2(unit)
    asked = query.copy()
    faiss.normalize_L2(asked)
    with tempfile.TemporaryDirectory() as folder:
        store = filled(folder, rows)
        features = store.features("bench/rows")
        gallery = SetVectors(features, features.valid_rows())
        bare, truth = timed(lambda: faiss.knn(asked, unit, K, metric=faiss.METRIC_INNER_PRODUCT)[1])
        print(f"{'faiss.knn, rows in memory':52}{bare:8.2f} s   1.00 ×")
        seconds, found = timed(lambda: exact_top_k(ArrayVectors(query), gallery, K).rows)
        print(
            f"{'exact_top_k, rows in the store':52}{seconds:8.2f} s {seconds / bare:6.2f} ×  {agreement(found, truth)}"
        )
        for memory in (8 << 30, options.rows * options.width):
            report = build_index(store, "bench/rows", max_memory=memory, min_recall=0.95, k=K)
            found_index = open_index(store, features)
            if found_index is None:
                raise SystemExit("the index that was just built is not there")
            record, tuned = found_index
            seconds, near = timed(lambda tuned=tuned: tuned.nearest(asked, gallery, K).rows)
            name = f"{record.factory} × {record.candidates}, {record.bytes / 2**20:.0f} MiB, built in {report.seconds:.0f} s"
            print(f"{name:52}{seconds:8.2f} s {seconds / bare:6.2f} ×  {agreement(near, truth)}")


def filled(folder: str, rows: np.ndarray) -> Store:
    """A store with these rows."""
    store = Store.init(f"{folder}/store")
    dataset = store.create_dataset("bench", NewRows([str(row) for row in range(len(rows))]))
    space = Space.named("bench", rows.shape[1])
    shard_rows = plan_shard_rows(len(rows), rows.shape[1] * rows.itemsize)
    job = store.plan_features(dataset, "rows", space, rows.dtype, shard_rows=shard_rows)
    assert job is not None
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        job.publish(shard, rows[start:stop])
    job.commit({"made by": "a benchmark"})
    return store


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """The fastest of three runs, and the result."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        found = work()
        best = min(best, time.perf_counter() - began)
    return best, found


def agreement(found: np.ndarray, truth: np.ndarray) -> str:
    """How many of the truly nearest rows were found."""
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
    return f"recall@{K} {hits / truth.size:.4f}"


if __name__ == "__main__":
    main()
