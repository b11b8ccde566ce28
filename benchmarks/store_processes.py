"""Measurements of `benchmarks/store.py` that need a fresh process: a cold page cache, and memory of one's own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from store_engines import ENGINES

ROUNDS = 3
COLD = ("raw", "featstore")


def cold(folder: Path, batches: list[np.ndarray]) -> dict[str, float]:
    """Ratio of random rows when none of the file is in memory, each time in a fresh process, in turns."""
    best = dict.fromkeys(COLD, float("inf"))
    for _ in range(ROUNDS):
        for name in COLD:
            best[name] = min(best[name], _in_child(_gather_cold, name, folder, batches))
    return {name: best["raw"] / value for name, value in best.items()}


def memory(name: str, folder: Path, batches: list[np.ndarray]) -> float:
    """Anonymous memory in MB that opening, a scan and random batches add to a process."""
    return _in_child(_own_memory, name, folder, batches)


def _in_child(work: Callable[..., float], *arguments: object) -> float:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(sender, work, arguments))
    child.start()
    found = receiver.recv()
    child.join()
    return found


def _report(sender: Connection, work: Callable[..., float], arguments: tuple[object, ...]) -> None:
    sender.send(work(*arguments))


def _gather_cold(name: str, folder: Path, batches: list[np.ndarray]) -> float:
    os.sync()  # pages that are not on disk yet cannot be dropped
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    engine = ENGINES[name](folder)
    began = time.perf_counter()
    for batch in batches:
        engine.gather(batch)
    return time.perf_counter() - began


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
