"""Measurements of `benchmarks/store.py`, each in a fresh process, so that no contender disturbs another."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from store_engines import ENGINES

ROUNDS = 3
REPEATS = 7
LOOKUPS = 2000
COLD_BATCHES = 8
ADVISED = "raw, advised of random reads"

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def cold(folder: Path, batches: list[np.ndarray]) -> dict[str, float]:
    """Ratio to raw of random rows of which nothing is in memory, by contender; fresh processes, in turns.

    `ADVISED` is raw whose map is advised of random reads, so that the system reads nothing ahead.
    """
    names = [ADVISED, *(name for name, kind in ENGINES.items() if kind.random_access)]
    best = dict.fromkeys(names, float("inf"))
    for _ in range(ROUNDS):
        for name in names:
            best[name] = min(best[name], _in_child(_gather_cold, name, folder, batches[:COLD_BATCHES]))
    return {name: best["raw"] / value for name, value in best.items()}


def memory(name: str, folder: Path, batches: list[np.ndarray]) -> float:
    """Anonymous memory in MB that opening, a scan and random batches add to a process."""
    return _in_child(_own_memory, name, folder, batches)


def warm(name: str, folder: Path, batches: list[np.ndarray], *, slow: bool) -> dict[str, float]:
    """Ratios of the work on files that are in memory."""
    return _in_child(_read_warm, name, folder, batches, slow)


def _read_warm(name: str, folder: Path, batches: list[np.ndarray], slow: bool) -> dict[str, float]:
    raw, engine = ENGINES["raw"](folder), ENGINES[name](folder)
    # engines that decode whole chunks for a row take seconds for one batch: they get one, against raw's same one
    quick = engine.random_access or slow
    repeats = REPEATS if quick else 1
    single = np.random.default_rng(1).integers(0, len(raw.rows), LOOKUPS if quick else LOOKUPS // 100).tolist()
    names = [f"image-{row:09d}.jpg" for row in single]
    works: dict[str, tuple[Callable[[Any], object], int]] = {
        "full scan": (lambda one: one.scan(), REPEATS),
        "random rows": (lambda one: [one.gather(batch) for batch in batches[: None if quick else 1]], repeats),
        "single row": (lambda one: [one.row(row) for row in single], repeats),
    }
    if hasattr(engine, "by_id"):
        works["row by id"] = (lambda one: [one.by_id(name) for name in names], repeats)
    return {work: _ratio(raw, engine, call, times) for work, (call, times) in works.items()}


def _ratio(raw: object, engine: object, call: Callable[[Any], object], repeats: int) -> float:
    """Best time of raw over best time of the engine, taken in turns after one warm-up each."""
    best = [float("inf"), float("inf")]
    for turn in range(repeats + (1 if repeats > 1 else 0)):
        for place, one in enumerate((raw, engine)):
            began = time.perf_counter()
            call(one)
            if turn or repeats == 1:
                best[place] = min(best[place], time.perf_counter() - began)
    return best[0] / best[1]


def _in_child(work: Callable[..., Any], *arguments: object) -> Any:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(sender, work, arguments))
    child.start()
    found = receiver.recv()
    child.join()
    return found


def _report(sender: Connection, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    sender.send(work(*arguments))


def _gather_cold(name: str, folder: Path, batches: list[np.ndarray]) -> float:
    """Seconds of the batches, before each of which all files are dropped from memory; only the reads are timed."""
    os.sync()  # pages that are not on disk yet cannot be dropped
    _evict(folder)
    engine = ENGINES["raw" if name == ADVISED else name](folder)
    if name == ADVISED:
        engine.rows._mmap.madvise(mmap.MADV_RANDOM)
    engine.gather(batches[0])  # opens what is opened once
    taken = 0.0
    for batch in batches:
        _evict(folder)
        began = time.perf_counter()
        engine.gather(batch)
        taken += time.perf_counter() - began
    return taken


def _evict(folder: Path) -> None:
    """Drop the pages of all files, those too that this process has mapped, which the system would keep."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder) in line:
            start, stop = (int(text, 16) for text in line.split()[0].split("-"))
            if _madvise(start, stop - start, mmap.MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _own_memory(name: str, folder: Path, batches: list[np.ndarray]) -> float:
    before = _anonymous()
    engine = ENGINES[name](folder)
    engine.scan()
    for batch in batches if engine.random_access else batches[:1]:
        engine.gather(batch)
    return (_anonymous() - before) / 1024


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    return 0
