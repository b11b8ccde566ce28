"""Plans of segments: which rows, from what, and how they are cut into shards and chunks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from blake3 import blake3

from featstore.errors import ConflictError, UsageError
from featstore.spaces import Space, require_same
from featstore.store.dataset import Dataset
from featstore.store.features import features_log
from featstore.store.files import Files
from featstore.store.names import check_name
from featstore.store.records import Plan

__all__ = ["plan_rows_to_come", "plan_segment", "plan_shard_rows", "segment_name"]

_DTYPES = ("float16", "float32", "float64")
_CHUNK_BYTES = 2 << 20
_SHARD_BYTES = 128 << 20
_SHARD_SECONDS = 120.0
_SHARDS_PER_WORKER = 4


def plan_shard_rows(rows: int, row_bytes: int, rows_per_second: float | None = None, workers: int = 1) -> int:
    """Rows of a shard, a power of two: about two minutes of work, at least four shards a worker, at most 128 MiB.

    Args:
        rows: Rows of the segment.
        row_bytes: Bytes of one row.
        rows_per_second: Measured speed of one worker; None leaves time out of account.
        workers: How many will share the work.
    """
    limit = min(_SHARD_BYTES / row_bytes, rows / (_SHARDS_PER_WORKER * max(1, workers)))
    if rows_per_second is not None:
        limit = min(limit, rows_per_second * _SHARD_SECONDS)
    return 1 << max(3, int(math.log2(max(1.0, limit))))


def segment_name(start: int, stop: int, space: Space, source: str, layout: int) -> str:
    """Name of the segment that a job makes: it says of which rows, and by a digest from what."""
    origin = blake3(f"{space.digest} {source}".encode()).hexdigest(6)
    return f"{start:010d}-{stop:010d}-{origin}" + (f"-{layout}" if layout > 1 else "")


def _chunk_rows(row_bytes: int, shard_rows: int) -> int:
    """Rows of an inner chunk: the power of two nearest 2 MiB, never more than the shard."""
    return min(shard_rows, 1 << max(0, round(math.log2(_CHUNK_BYTES / row_bytes))))


def plan_segment(
    dataset: Dataset,
    name: str,
    space: Space,
    dtype: str,
    *,
    stop: int,
    source: str,
    start: int = 0,
    layout: int | None = None,
    shard_rows: int | None = None,
) -> Plan:
    """The plan of one segment; nothing is written.

    Args:
        dataset: The rows; its version is recorded.
        name: Name of the feature set, without the dataset's.
        space: Space of the features.
        dtype: float16, float32 or float64.
        stop: One past the last row.
        source: What the features are made from.
        start: First row.
        layout: In which layout the rows are numbered; None for the dataset's.
        shard_rows: Rows of a shard; None for what `plan_shard_rows` proposes.
    """
    layout = dataset.layout if layout is None else layout
    row_bytes = space.width * np.dtype(dtype).itemsize
    shard_rows = plan_shard_rows(stop - start, row_bytes) if shard_rows is None else shard_rows
    return Plan(
        dataset=dataset.name,
        dataset_version=dataset.version,
        layout=layout,
        name=name,
        segment=segment_name(start, stop, space, source, layout),
        start=start,
        stop=stop,
        space=space,
        source=source,
        dtype=dtype,  # type: ignore[arg-type]  # pydantic checks it
        shard_rows=shard_rows,
        chunk_rows=_chunk_rows(row_bytes, shard_rows),
    )


def plan_rows_to_come(
    files: Files,
    dataset: Dataset,
    name: str,
    space: Space,
    dtype: np.dtype[Any],
    *,
    shard_rows: int,
    source: str,
    rows: int | None,
) -> Plan | None:
    """The plan of the rows that a feature set does not cover yet; see `Store.plan_features`."""
    check_name(name, "feature set")
    if dtype.name not in _DTYPES:
        raise UsageError(f"features of type {dtype.name} cannot be stored", hint=f"choose one of {', '.join(_DTYPES)}")
    if shard_rows < 1 or shard_rows & (shard_rows - 1):
        raise UsageError(f"a shard of {shard_rows} rows: the number must be a power of two")
    newest = features_log(files, dataset.name, name).latest()
    if newest is not None and newest.layout != dataset.layout:
        raise ConflictError(
            f"{dataset.name}/{name} still has the rows that dataset {dataset.name} had before it was compacted",
            hint=f"finish the compaction with `featstore compact {dataset.name}`",
        )
    if newest is not None:
        require_same(
            newest.space,
            space,
            what=f"{dataset.name}/{name} exists",
            hint="write to another name, or use the encoder (or the --space) that this set was made with",
        )
    start, stop = newest.rows if newest else 0, dataset.rows if rows is None else rows
    if start >= stop:
        return None
    kind = newest.dtype if newest else dtype.name
    return plan_segment(dataset, name, space, kind, start=start, stop=stop, source=source, shard_rows=shard_rows)
