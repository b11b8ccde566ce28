"""What an extraction would do, how long it would take and what it would cost, measured on a few images; nothing is kept."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel

from featstore.extract.begin import Begun, begin, processes_for
from featstore.extract.outputs import Output
from featstore.extract.pipeline import row_bytes
from featstore.extract.plan import Sample
from featstore.extract.process import keep_memory
from featstore.extract.request import ExtractRequest
from featstore.extract.stages import Stage, StageReport, Stages
from featstore.progress import SILENT, Progress
from featstore.store import DigestIndex, Store
from featstore.store.names import is_view
from featstore.store.probe import PROBE

__all__ = ["ExtractPlan", "SetPlan", "plan_extraction"]

_WRITTEN_BYTES = 4 << 20  # enough to see what the disk gives besides its latency


class SetPlan(BaseModel):
    """One feature set before an extraction.

    Attributes:
        cached: Rows that it has, and rows of finished shards that are not committed yet.
        missing: Rows that it lacks.
        bytes: That they will take.
    """

    cached: int
    missing: int
    bytes: int


class ExtractPlan(BaseModel):
    """What an extraction would do.

    Attributes:
        dataset: Its name.
        images: In the source.
        new: Among them, those that the dataset does not have.
        missing: Images that at least one set lacks, each counted once.
        skipped: Entries of the source that are not read.
        sample: Images that were tried, spread over those missing.
        sample_failed: Among them, those that cannot be used.
        sample_copied: Among them, those that the store has the features of in another place, so that they are only read.
        stages: Where the time of one process went, with the images/s of each stage.
        limit: The stage that takes longest.
        processes: That would work on this machine.
        ranks: Among which the shards are divided.
        images_per_second: Of all of them; None when nothing is missing, or no image could be used.
        bytes_read: To be read, as far as the sample tells.
        bytes_written: To be written.
        seconds: That it would take; None where it cannot be told.
        cost: In the currency of `price_per_hour`; None without it.
        sets: One entry a feature set, by name.
    """

    dataset: str
    images: int
    new: int
    missing: int
    skipped: int
    sample: int
    sample_failed: int
    sample_copied: int
    stages: list[StageReport]
    limit: Stage | None
    processes: int
    ranks: int
    images_per_second: float | None
    bytes_read: int
    bytes_written: int
    seconds: float | None
    cost: float | None
    sets: dict[str, SetPlan]


def plan_extraction(
    store: Store, request: ExtractRequest, *, price_per_hour: float | None = None, progress: Progress = SILENT
) -> ExtractPlan:
    """Look at everything that `extract` would look at first, and tell what it would do.

    The store gets no row and no feature; to measure the disk, one file is written to it and deleted.

    Args:
        store: Where datasets and features are.
        request: What would be done.
        price_per_hour: Of a machine.
        progress: Told what in the source is not as expected.

    Raises:
        BadInputError, SpaceMismatchError: what `extract` would refuse.
    """
    keep_memory()
    begun = begin(store, request, progress)
    sets, missing = _missing(store, request, begun)
    written = sum(item.bytes for item in sets.values())
    ranks, machines = request.rank.count, request.rank.count / request.rank.local
    stages, copied, seconds, rate = Stages(), 0, None, None
    processes = processes_for(request, -(-missing // ranks), begun.rate)
    if begun.sample is not None and missing:
        stages = begun.sample.stages
        stages.seconds["write"] = _write_seconds(store, written) / missing * begun.sample.images
        copied = _copied(store, begun.sample, begun.outputs, request.dtype)
        each = _seconds_each(begun.sample, copied)
        rate = processes * ranks / each
        seconds = missing / rate
    return ExtractPlan(
        dataset=request.dataset,
        images=len(begun.listing.known) + len(begun.listing.new),
        new=len(begun.listing.new),
        missing=missing,
        skipped=begun.listing.skipped_in_all,
        sample=begun.sample.images if begun.sample else 0,
        sample_failed=begun.sample.failed if begun.sample else 0,
        sample_copied=copied,
        stages=stages.report(),
        limit=stages.limit,
        processes=processes,
        ranks=ranks,
        images_per_second=rate,
        bytes_read=round(stages.bytes_read / begun.sample.images * missing) if begun.sample else 0,
        bytes_written=written,
        seconds=seconds,
        cost=None if price_per_hour is None or seconds is None else seconds / 3600 * price_per_hour * machines,
        sets=sets,
    )


def _missing(store: Store, request: ExtractRequest, begun: Begun) -> tuple[dict[str, SetPlan], int]:
    """What each set lacks, and how many images that are together."""
    new = len(begun.listing.new)
    dataset = store.dataset(request.dataset) if begun.exists else None
    lacking = np.zeros(dataset.rows if dataset else 0, dtype=bool)
    sets = {}
    for name, output in begun.outputs.items():
        mine = np.zeros(len(lacking), dtype=bool)
        if dataset is not None:
            key = f"{dataset.name}/{name}"
            mine[store.features(key).rows if store.has_features(key) else 0 :] = True
            job = store.begun_features(dataset, name, output.space)
            if job is not None:
                pending = set(job.pending())
                for shard in range(job.n_shards):
                    mine[slice(*job.shard_range(shard))] = shard in pending
        lacking |= mine
        missing = int(mine.sum()) + new
        dtype = np.dtype(request.dtype) if request.dtype else output.encoder.dtype
        sets[name] = SetPlan(
            cached=len(lacking) - int(mine.sum()),
            missing=missing,
            bytes=missing * row_bytes(output.space.width, dtype),
        )
    return sets, int(lacking.sum()) + new


def _copied(store: Store, sample: Sample, outputs: Mapping[str, Output], dtype: str | None) -> int:
    """Images of the sample whose features the store has for every output."""
    found = np.ones(sample.images, dtype=bool)
    for name, output in outputs.items():
        index = None if is_view(name) else DigestIndex(store, output.space)
        if not index:
            return 0
        wanted = np.dtype(dtype) if dtype else output.encoder.dtype
        found &= index.copy(sample.digests, wanted, emitted=output.encoder.dtype).found
    return int(found.sum())


def _seconds_each(sample: Sample, copied: int) -> float:
    """Of one process for one image, those counted in that are only read and written."""
    seconds = sample.stages.seconds
    every = seconds["read"] + seconds["write"]
    rest = seconds["decode"] + seconds["preprocess"] + seconds["encode"]
    return (every + rest * (1 - copied / sample.images)) / sample.images


def _write_seconds(store: Store, size: int) -> float:
    """How long writing so many bytes takes, from one durable file."""
    key = f"{PROBE}{secrets.token_hex(8)}"
    data = np.random.default_rng(0).bytes(min(size, _WRITTEN_BYTES))
    began = time.perf_counter()
    try:
        store.files.put_new(key, [data])
        return (time.perf_counter() - began) * size / len(data)
    finally:
        store.files.delete([key])
