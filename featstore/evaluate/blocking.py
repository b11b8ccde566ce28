"""How much memory an evaluation may take, and how its work is cut to fit. No result depends on it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from featstore.errors import UsageError
from featstore.ray_pool import Engine

__all__ = ["DEFAULT_BLOCKING", "DEFAULT_MAX_MEMORY", "Blocking", "parse_memory", "thread_count"]

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_LEAST_STATE = 16 * 2**20
_GALLERY_ROWS, _TILE_QUERIES = 8192, 256

DEFAULT_MAX_MEMORY = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Blocking:
    """How the work is cut.

    Attributes:
        gallery_rows: Gallery rows of a block; the scores of one query (32 KiB) should stay in a close cache.
        tile_queries: Queries of one GEMM.
        state_bytes: Memory for the counters of a block of queries; the gallery is read twice per block.
        keep_bytes: A gallery that takes no more than this as float32 is prepared once and kept.
        engine: Where the workers are: processes of this machine, or actors of a Ray cluster.
        workers: Processes that each count a part of the gallery; each takes the memory above.
    """

    gallery_rows: int = _GALLERY_ROWS
    tile_queries: int = _TILE_QUERIES
    state_bytes: int = 512 * 2**20
    keep_bytes: int = 512 * 2**20
    workers: int = 1
    engine: Engine = "local"

    @classmethod
    def within(cls, max_memory: int, *, rows: int, width: int, workers: int = 1, engine: Engine = "local") -> Blocking:
        """Cut work on a gallery [rows, width] so that all workers together stay within `max_memory` bytes.

        Raises:
            UsageError: That is not enough for one block.
        """
        # A block is there as float32, beside its scores, and the next one as it was read and as float32.
        block = 4 * _GALLERY_ROWS * (3 * width + _TILE_QUERIES)
        free = max_memory // workers - block
        if free < _LEAST_STATE:
            need = -(-(block + _LEAST_STATE) * workers // 2**20)
            raise UsageError(
                f"{max_memory / 2**20:.0f} MiB are too little for rows of width {width}"
                + (f" in {workers} workers" if workers > 1 else ""),
                hint=f"give at least --max-memory {need}M",
            )
        whole = 4 * rows * width
        keep = whole if whole <= free // 2 else 0
        return cls(state_bytes=free - keep, keep_bytes=keep, workers=workers, engine=engine)


DEFAULT_BLOCKING = Blocking()


def thread_count() -> int:
    """Threads to work in: what OMP_NUM_THREADS says, as for the GEMM, or all processors this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if wanted.isdecimal():
        return max(int(wanted), 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_memory(text: str) -> int:
    """Bytes from `600M`, `4G`, `1.5GiB` or a plain number.

    Raises:
        UsageError: Not an amount of memory.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not found or not float(found[1]):
        raise UsageError(f"'{text}' is not an amount of memory", hint="write for example 600M or 4G")
    return int(float(found[1]) * _UNITS[found[2]])
