"""Exact evaluation, as ratios to the bare float32 matrix product of the same scores, measured in the same run.

Times are processor seconds of this process (wall time says nothing on shared cores), the least of several interleaved runs.
Rows are noisy clusters; `--noise` sets how well they are separated, and `ties` are rows of signs, whose scores take a few
hundred values. Peers run on fewer queries and are scaled; those that are not installed are named and skipped
(open-metric-learning: `--no-deps`, then omegaconf, gdown, bs4, requests, validators, antlr4-python3-runtime and tqdm).

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py
    OMP_NUM_THREADS=1 python benchmarks/evaluate.py --queries 1000 --gallery 1000000 --peers none
    OMP_NUM_THREADS=1 python benchmarks/evaluate.py --memory
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from featstore.evaluate import METRICS
from featstore.evaluate.arrays import PerQuery, evaluate_vectors
from featstore.evaluate.blocking import DEFAULT_BLOCKING, DEFAULT_MAX_MEMORY, Blocking
from featstore.evaluate.relevance import ByLabel
from featstore.evaluate.vectors import ArrayVectors
from featstore.evaluate.verification import verify_pairs

if TYPE_CHECKING:
    import torch

HEADLINE = ("map", "map@r", "recall@1", "recall@10")
EVERY = tuple(name.replace("@k", "@100") for name, info in METRICS.items() if info.measure == "ranking")
RATES = ("tar@far=1e-6", "tar@far=1e-5", "tar@far=1e-4", "tar@far=1e-3", "tar@far=1e-2", "tar@far=1e-1")

WHY = """\
Nothing exact can fall below 1.00. Above it: counting a score in a cell (a place and an increment, about 1 ns against
512 operations of the product), and pairs within the error bound of a right answer, which are scored again in float64.
Rates add a random sample of pairs and the scores of those in narrow windows. With ties everywhere each pair is compared
with the right answers it ties with, because ties are ordered by row; unless its product is exact (signs of width 4^n,
small integers), it is scored again before, because float32 cannot tell a tie from a near one."""


@dataclass
class Data:
    """Queries [Q, D] and gallery rows [G, D] with their labels."""

    query: np.ndarray
    gallery: np.ndarray
    query_labels: np.ndarray
    gallery_labels: np.ndarray

    def sides(self) -> tuple[ArrayVectors, ArrayVectors, ByLabel]:
        """As the evaluator takes them."""
        return (
            ArrayVectors(self.query),
            ArrayVectors(self.gallery),
            ByLabel(self.query_labels, self.gallery_labels),
        )

    def part(self, queries: int) -> Data:
        """The same with fewer queries."""
        return Data(self.query[:queries], self.gallery, self.query_labels[:queries], self.gallery_labels)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Evaluation against the bare matrix product.")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--noise", type=float, default=2.1, help="of a row around its class")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--peers", default="all", help="names joined by commas, all or none")
    parser.add_argument("--memory", action="store_true", help="peak memory at 10,000 × 1,000,000 instead")
    arguments = parser.parse_args()
    if arguments.memory:
        memory(arguments.width, arguments.classes)
        return
    data = clusters(arguments)
    signs = Data(np.sign(data.query), np.sign(data.gallery), data.query_labels, data.gallery_labels)
    blocking = Blocking.within(DEFAULT_MAX_MEMORY, rows=arguments.gallery, width=arguments.width)
    halves = half(data)
    contenders: dict[str, Callable[[], object]] = {
        "map, map@r, recall@k": lambda: rank(data, HEADLINE, blocking),
        f"all {len(EVERY)} ranking metrics": lambda: rank(data, EVERY, blocking),
        "  the same, float16 rows": lambda: rank(halves, HEADLINE, blocking),
        "TAR at six FARs, all pairs": lambda: verify_pairs(*data.sides(), RATES, blocking=blocking),
        "four cells": lambda: [rank(data, HEADLINE, blocking) for _ in range(4)],
    }
    warm = data.part(50)
    rank(warm, EVERY, blocking)
    verify_pairs(*Data(warm.query, warm.gallery[:3000], warm.query_labels, warm.gallery_labels[:3000]).sides(), RATES)
    limit, times, found = measured(lambda: product(data), contenders, arguments.repeats)
    pairs = arguments.queries * arguments.gallery
    rate = 2 * pairs * arguments.width / limit / 1e9
    first = found["map, map@r, recall@k"]
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(
        f"\n{arguments.queries:,} × {arguments.gallery:,} × {arguments.width}, {arguments.classes:,} classes, "
        f"threads {threads}: map {first.mean('map'):.3f}, recall@1 {first.mean('recall@1'):.3f}"
    )
    print(f"{'sgemm of the scores':32} {limit:8.2f} s   1.00   {rate:.0f} GFLOP/s")
    for name, seconds in times.items():
        print(f"{name:32} {seconds:8.2f} s   {seconds / limit:.2f}")
    few = min(arguments.queries, 1000)
    limit, times, found = measured(
        lambda: product(signs.part(few)), {"ties": lambda: rank(signs.part(few), HEADLINE, blocking)}, arguments.repeats
    )
    tied = found["ties"].tied.mean()
    print(
        f"{'signs, ties everywhere':32} {times['ties']:8.2f} s   {times['ties'] / limit:.2f}   {few:,} queries, {tied:.0%} tied"
    )
    print(WHY)
    compare_peers(data, rate, arguments.peers)


def clusters(arguments: argparse.Namespace) -> Data:
    """Rows around random centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((arguments.classes, arguments.width), dtype=np.float32)

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, arguments.classes, n)
        noise = rng.standard_normal((n, arguments.width), dtype=np.float32)
        noise *= np.float32(arguments.noise)
        noise += centres[labels]
        return noise, labels

    query, query_labels = rows(arguments.queries)
    gallery, gallery_labels = rows(arguments.gallery)
    return Data(query, gallery, query_labels, gallery_labels)


def half(data: Data) -> Data:
    """The same rows as float16."""
    return Data(data.query.astype(np.float16), data.gallery.astype(np.float16), data.query_labels, data.gallery_labels)


def rank(data: Data, metrics: tuple[str, ...], blocking: Blocking) -> PerQuery:
    """The evaluator."""
    return evaluate_vectors(*data.sides(), metrics, blocking=blocking)


def product(data: Data) -> None:
    """The scores alone, in the tiles that are best for the matrix product."""
    out = np.empty((256, 8192), np.float32)
    for start in range(0, len(data.gallery), 8192):
        block = data.gallery[start : start + 8192].T
        for first in range(0, len(data.query), 256):
            part = data.query[first : first + 256]
            np.matmul(part, block, out=out.ravel()[: len(part) * block.shape[1]].reshape(len(part), block.shape[1]))


def measured(
    base: Callable[[], object], contenders: dict[str, Callable[[], object]], repeats: int
) -> tuple[float, dict[str, float], dict]:
    """Least processor seconds of each, all of them run in turn."""
    limit, times, found = float("inf"), dict.fromkeys(contenders, float("inf")), {}
    for _ in range(repeats):
        for name, contender in contenders.items():
            limit = min(limit, seconds_of(base)[0])
            seconds, found[name] = seconds_of(contender)
            times[name] = min(times[name], seconds)
    return limit, times, found


def seconds_of(work: Callable[[], object]) -> tuple[float, object]:
    """Processor seconds, and what came out."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


class Generated:
    """Gallery rows that are made when they are read, so that none are held."""

    def __init__(self, rows: int, width: int, centres: np.ndarray, labels: np.ndarray) -> None:
        self.rows, self.width, self._centres, self._labels = rows, width, centres, labels

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), the same whenever they are read in the same blocks."""
        noise = np.random.default_rng(start).standard_normal((stop - start, self.width), dtype=np.float32)
        noise *= np.float32(2.1)
        noise += self._centres[self._labels[start:stop]]
        return noise

    def names(self, rows: list[int]) -> list[str]:
        """Row numbers."""
        return [str(row) for row in rows]


def memory(width: int, classes: int) -> None:
    """Peak resident memory above what the imports take."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, width), dtype=np.float32)

    def problem(n_queries: int, n_gallery: int) -> tuple[Generated, Generated, ByLabel]:
        labels = rng.integers(0, classes, n_queries), rng.integers(0, classes, n_gallery)
        sides = (Generated(len(side), width, centres, side) for side in labels)
        return *sides, ByLabel(*labels)

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    evaluate_vectors(*problem(50, 5000), EVERY)
    verify_pairs(*problem(50, 5000), RATES)
    before = peak()
    print(f"after imports and compilation: {before:.0f} MiB")
    for n_queries, n_gallery in ((10_000, 100_000), (10_000, 1_000_000)):
        blocking = Blocking.within(DEFAULT_MAX_MEMORY, rows=n_gallery, width=width)
        for name, work, metrics in (
            ("all ranking metrics", evaluate_vectors, EVERY),
            ("six rates", verify_pairs, RATES),
        ):
            seconds, _ = seconds_of(lambda: work(*problem(n_queries, n_gallery), metrics, blocking=blocking))  # noqa: B023 - called at once
            print(f"{n_queries:,} × {n_gallery:,}, {name}: peak {peak() - before:.0f} MiB above that, {seconds:.0f} s")


def compare_peers(data: Data, rate: float, names: str) -> None:
    """Peers on a few queries, against the matrix product of as many."""
    wanted = {name for name in PEERS if names == "all" or name in names.split(",")}
    for name in [name for name in PEERS if name in wanted]:
        queries, package, work = PEERS[name]
        try:
            importlib.import_module(package)
        except (ImportError, RuntimeError) as error:  # the latter from torchvision without its operators
            print(f"{name:32} left out: not installed ({error})")
            continue
        few = data.part(min(queries, len(data.query)))
        work(data.part(1))  # what it compiles and loads at first
        seconds, value = seconds_of(partial(work, few))
        limit = 2 * len(few.query) * len(few.gallery) * few.query.shape[1] / rate / 1e9
        scaled = seconds * len(data.query) / len(few.query)
        ours = rank(few, ("map", "recall@1"), DEFAULT_BLOCKING)
        print(
            f"{name:32} {scaled:8.2f} s   {seconds / limit:.1f}   {len(few.query):,} queries, scaled; {value} "
            f"(featstore: map {ours.mean('map'):.6f}, recall@1 {ours.mean('recall@1'):.6f})"
        )


def unit_rows(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Queries and gallery rows of norm 1, for peers that do not normalise."""
    query, gallery = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (data.query, data.gallery))
    return query, gallery


def tensors(data: Data) -> list[torch.Tensor]:
    """The same and their labels as tensors."""
    import torch

    return [torch.from_numpy(rows) for rows in (*unit_rows(data), data.query_labels, data.gallery_labels)]


def dictionaries(data: Data) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Right answers and whole runs by name, as TREC's tools take them."""
    query, gallery = unit_rows(data)
    names = [str(row) for row in range(len(gallery))]
    run = {str(q): dict(zip(names, row, strict=True)) for q, row in enumerate((query @ gallery.T).tolist())}
    relevant = {
        str(q): {names[row]: 1 for row in np.flatnonzero(data.gallery_labels == label)}
        for q, label in enumerate(data.query_labels)
    }
    return relevant, run


def argsort(data: Data) -> str:
    """Sort every ranking (revisitop style)."""
    query, gallery = unit_rows(data)
    order = np.argsort(-(query @ gallery.T), axis=1)
    hits = data.gallery_labels[order] == data.query_labels[:, None]
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return f"map {np.mean((precision * hits).sum(axis=1) / hits.sum(axis=1)):.6f}"


def faiss_top(data: Data) -> str:
    """The 100 nearest by faiss, then recall@1 in numpy: no full ranking."""
    import faiss

    gallery, query = data.gallery.copy(), data.query.copy()
    faiss.normalize_L2(gallery)
    faiss.normalize_L2(query)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    _, rows = index.search(query, 100)
    return f"top 100 only: recall@1 {np.mean(data.gallery_labels[rows[:, 0]] == data.query_labels):.6f}"


def metric_learning(data: Data) -> str:
    """pytorch-metric-learning over whole rankings."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    calculator = AccuracyCalculator(
        include=("mean_average_precision", "mean_average_precision_at_r", "precision_at_1"),
        k=None,
        device=torch.device("cpu"),
    )
    query, gallery, query_labels, gallery_labels = tensors(data)
    found = calculator.get_accuracy(query, query_labels, gallery, gallery_labels)
    return f"map {found['mean_average_precision']:.6f}"


def metrics_of_torch(data: Data) -> str:
    """torchmetrics, one query after another."""
    from torchmetrics.functional.retrieval import retrieval_average_precision

    query, gallery, query_labels, gallery_labels = tensors(data)
    scores = query @ gallery.T + 2  # scores of 0 and less would not count as relevant
    values = [
        retrieval_average_precision(row, gallery_labels == label)
        for row, label in zip(scores, query_labels, strict=True)
    ]
    return f"map {np.mean(values):.6f}"


def open_metric_learning(data: Data) -> str:
    """open-metric-learning over whole rankings: at any shorter k it divides by the answers it found, not by all."""
    import torch
    from oml.functional.knn import batched_knn_qg
    from oml.functional.metrics import calc_map

    query, gallery, query_labels, gallery_labels = tensors(data)
    _, order, answers = batched_knn_qg(
        query, gallery, len(gallery), labels_query=query_labels, labels_gallery=gallery_labels
    )
    hits = [torch.isin(found, right) for found, right in zip(order, answers, strict=True)]
    (values,) = calc_map(hits, [len(right) for right in answers], top_k=(len(gallery),))
    return f"map {values.mean():.6f}"


def trec_eval(data: Data) -> str:
    """pytrec_eval over whole runs as dictionaries."""
    import pytrec_eval

    relevant, run = dictionaries(data)
    found = pytrec_eval.RelevanceEvaluator(relevant, {"map"}).evaluate(run)
    return f"map {np.mean([values['map'] for values in found.values()]):.6f}"


def rank_eval(data: Data) -> str:
    """Ranx over whole runs as dictionaries."""
    from ranx import Qrels, Run, evaluate

    relevant, run = dictionaries(data)
    return f"map {evaluate(Qrels(relevant), Run(run), 'map'):.6f}"


PEERS: dict[str, tuple[int, str, Callable[[Data], str]]] = {
    "faiss top-k + numpy": (1000, "faiss", faiss_top),
    "naive argsort": (200, "numpy", argsort),
    "torchmetrics": (50, "torchmetrics", metrics_of_torch),
    "open-metric-learning": (50, "oml.functional.metrics", open_metric_learning),
    "pytorch-metric-learning": (50, "pytorch_metric_learning", metric_learning),
    "pytrec_eval": (20, "pytrec_eval", trec_eval),
    "ranx": (20, "ranx", rank_eval),
}


if __name__ == "__main__":
    main()
