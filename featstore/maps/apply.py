"""Applying a map to a feature set: streamed shard by shard from one set into another, resumable, as fast as the disk."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from featstore.errors import AlreadyExistsError, UnknownNameError, UsageError
from featstore.maps.folder import LearnedMap, load_map
from featstore.maps.modules import FeatureMap
from featstore.maps.uncertainty import uncertainty_name, uncertainty_run
from featstore.progress import SILENT, Progress
from featstore.ranks import ALONE, Rank
from featstore.ray_pool import Engine, Tell, ray_map
from featstore.store import (
    FeatureJob,
    FeatureSet,
    RowFailure,
    RowStatus,
    SetRef,
    Store,
    common_rows,
    in_background,
    parse_set,
    plan_shard_rows,
)

__all__ = ["ApplyReport", "apply_map", "map_block", "map_rows", "outcomes"]

# a batch's widest activation stays in cache between the layers; so many rows are enough for a full-speed GEMM
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 2048
# threads that map and publish a shard each: a square map costs as much as publishing, and a third waits for the disk
_AT_ONCE = 3


@dataclass(frozen=True)
class ApplyReport:
    """What an apply did.

    Attributes:
        set: Reference of the mapped set, with its version.
        source: Reference of the set it was made from, with its version.
        rows: Rows that have a mapped feature.
        invalid: Rows that have none, because the source has none.
        seconds: Wall time.
        cached: Whether there was nothing to do.
        left: Rows that other ranks have not mapped yet; while there are any, `set` has no version and counts no rows.
        uncertainty: Reference of the set that holds each row's uncertainty; None for a map that knows none.
    """

    set: str
    source: str
    rows: int
    invalid: int
    seconds: float
    cached: bool
    left: int = 0
    uncertainty: str | None = None


def apply_map(
    store: Store,
    run: Path,
    set_ref: str,
    as_: str,
    *,
    side: Sequence[str] = (),
    dtype: DTypeLike | None = None,
    rank: Rank = ALONE,
    engine: Engine = "local",
    workers: int | None = None,
    progress: Progress = SILENT,
) -> ApplyReport:
    """Map every row of a feature set into another set of the same dataset.

    A row needs a feature in the source and in every side. Rows without one keep their status and their entry in the failure
    ledger; input digests are carried over. A target that was made from an older version of the source gets the rows it
    lacks; the same command after a crash does the shards that are pending. Where the map knows its uncertainty, that is stored
    beside it as `NAME.uncertainty`, see `uncertainty_set`.

    Args:
        store: The store.
        run: Run folder of the map.
        set_ref: The source, `DATASET/NAME[@version]`; its space must be the map's input space.
        as_: The target, `DATASET/NAME` with the source's dataset.
        side: The side-information that the map takes, in the order it was trained with.
        dtype: Stored dtype; float32 unless given. A target that was begun keeps its own.
        rank: Which of several independent processes this is; each maps every n-th shard, and the last one commits.
        engine: `local` maps in this process, which keeps the disk busy; `ray` in actors of a Ray cluster.
        workers: Ray actors; None takes as many as the cluster has CPUs for.
        progress: Who listens.

    Raises:
        SpaceMismatchError: the source lies in another space than the map's inputs, or the target exists in another space.
        UsageError: the target is in another dataset, or names a version; side-information that the map does not take.
        AlignmentError: the side-information belongs to another dataset.
        AlreadyExistsError: the target was made from another set.
        NonFiniteError: a mapped row is not finite or does not fit `dtype`; ids are listed.
    """
    began = time.monotonic()
    source = store.features(set_ref)
    target = _target(as_, source)
    learned = load_map(run)
    sides = [store.features(reference) for reference in side]
    learned.require_inputs(source, sides)
    common_rows([source, *sides])  # of one dataset, or refused
    if store.has_features(target.key):
        _check_same_source(store, store.features(target.key), [source, *sides], learned)
    rows = min(item.rows for item in (source, *sides))
    chosen = np.dtype(np.float32 if dtype is None else dtype)
    job = store.plan_features(
        source.dataset,
        target.name,
        learned.space,
        chosen,
        shard_rows=plan_shard_rows(rows, learned.space.width * chosen.itemsize, workers=rank.count * (workers or 1)),
        source=", ".join(f"{item.ref} {item.record.uuid}" for item in (source, *sides)),
        rows=rows,
    )
    if job is not None:
        job.tell_of_others(progress)
        _fill(_Mapper(job, learned.module, source, sides), rank, engine, workers, progress)
        left = sum(stop - start for start, stop in map(job.shard_range, job.pending()))
        if left:
            return ApplyReport(
                set=target.key,
                source=source.ref,
                rows=0,
                invalid=0,
                seconds=time.monotonic() - began,
                cached=False,
                left=left,
            )
        job.commit(
            {
                "apply": learned.space.name,
                "map": learned.space.identity["map"],
                "files": learned.card.files,
                "source": {"set": source.ref, "uuid": source.record.uuid},
                **({"side": [{"set": item.ref, "uuid": item.record.uuid} for item in sides]} if sides else {}),
            }
        )
    made = store.features(target.key)
    if dtype is not None and made.dtype != chosen:
        progress.note(f"{made.ref} was begun as {made.dtype.name} and stays so")
    uncertainty = uncertainty_run(run)
    doubt = (
        apply_map(store, uncertainty, made.ref, uncertainty_name(made.name), progress=progress) if uncertainty else None
    )
    valid = len(made.valid_rows())
    return ApplyReport(
        set=made.ref,
        source=source.ref,
        rows=valid,
        invalid=made.rows - valid,
        seconds=time.monotonic() - began,
        cached=job is None and (doubt is None or doubt.cached),
        uncertainty=doubt.set if doubt else None,
    )


def _target(as_: str, source: FeatureSet) -> SetRef:
    target = parse_set(as_)
    if target.version is not None:
        raise UsageError(
            f"'{as_}' names a version", hint=f"write --as {target.key}; versions are numbered by the store"
        )
    if target.dataset != source.dataset.name:
        raise UsageError(
            f"{source.ref} cannot be mapped into dataset {target.dataset}: mapped rows are rows of the source's dataset",
            hint=f"write --as {source.dataset.name}/{target.name}",
        )
    return target


def _check_same_source(store: Store, existing: FeatureSet, sources: list[FeatureSet], learned: LearnedMap) -> None:
    """Raise AlreadyExistsError if this map made the target from other sets (views of one encoder share a space)."""
    if existing.space.digest != learned.space.digest:
        return  # planning refuses it with the fields that differ
    nothing = {"set": "something else", "uuid": ""}
    provenance = existing.record.provenance
    recorded = [provenance.get("source") or nothing, *provenance.get("side", [])]
    for source, made_from in zip(sources, recorded, strict=False):
        _check_made_from(store, existing, source, made_from)


def _check_made_from(store: Store, existing: FeatureSet, source: FeatureSet, made_from: dict[str, str]) -> None:
    reference = str(made_from["set"])
    try:
        # a set that was removed and made again has the name, but not the commit
        same = reference.startswith(f"{source.name}@") and store.features(reference).record.uuid == made_from["uuid"]
    except UnknownNameError:
        # numbers are never used again: what is not there any more was compacted and collected as garbage
        same = int(reference.rpartition("@")[2]) < store.features(source.name).version
    if not same:
        raise AlreadyExistsError(
            f"{existing.name} exists and was made from {reference}, not from {source.ref}",
            hint="write to another name with --as",
        )


class _Mapper(NamedTuple):
    """What it takes to map a shard; picklable, its parts by name or value."""

    job: FeatureJob
    module: FeatureMap
    source: FeatureSet
    sides: Sequence[FeatureSet]

    def mapping(self) -> Callable[[int], None]:
        """A function that maps a shard and publishes it."""
        digests = self.source.input_digests()
        status, failures = outcomes([self.source, *self.sides], self.job.stop)

        def do(shard: int) -> None:
            start, stop = self.job.shard_range(shard)
            mapped = np.empty((stop - start, self.job.width), dtype=np.float32)
            map_rows(self.module, self.source, self.sides, start, stop, mapped)
            first, last = (bisect_left(failures, row, key=lambda failure: failure.row) for row in (start, stop))
            self.job.publish(
                shard, mapped, status=status[start:stop], digests=digests[start:stop], failures=failures[first:last]
            )

        return do


def _on_ray(mapper: _Mapper) -> Callable[[int, Tell], None]:
    """In a Ray actor."""
    do = mapper.mapping()
    return lambda shard, _: do(shard)


def _fill(mapper: _Mapper, rank: Rank, engine: Engine, workers: int | None, progress: Progress) -> None:
    job = mapper.job
    mine = [shard for shard in range(job.n_shards) if rank.owns(shard)]
    pending = sorted(set(mine) & set(job.pending()))
    sizes = {shard: stop - start for shard in mine for start, stop in [job.shard_range(shard)]}
    rows, todo = sum(sizes.values()), sum(sizes[shard] for shard in pending)
    progress.start(f"mapping {mapper.source.name} to {job.name}", rows, "rows", done=rows - todo)
    if not pending:
        return
    if engine == "ray":
        with closing(ray_map(_on_ray, mapper, pending, workers=workers)) as results:
            for number, _ in results:
                progress.advance(sizes[pending[number]])
        return
    do, threads = mapper.mapping(), torch.get_num_threads()

    def alone(shard: int) -> None:
        torch.set_num_threads(max(1, threads // _AT_ONCE))  # of this thread
        do(shard)

    try:
        with in_background(job, progress, at_once=_AT_ONCE) as begin:
            for shard in pending:
                begin(shard, partial(alone, shard))
    finally:
        torch.set_num_threads(threads)  # of threads that come later


@torch.inference_mode()
def map_block(
    module: FeatureMap, block: NDArray[np.floating], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Map rows, in batches that stay in cache.

    Args:
        module: The map, in eval mode on the CPU.
        block: [n, D_in] of any floating-point dtype; a row without a feature is NaN and stays NaN.
        out: Where to put the mapped rows, [n, D_out] in C order; made if not given.
    """
    if out is None:
        out = np.empty((len(block), module.out_width), np.float32)
    into = torch.from_numpy(out)
    widest = max(parameter.shape[0] for parameter in module.parameters())
    batch = min(_BATCH_ROWS, max(1, _BATCH_BYTES // (4 * max(widest, module.in_width))))
    # products of rows that are in the cache are a third faster
    held = torch.empty(min(batch, len(block)), module.in_width)
    for offset in range(0, len(block), batch):
        x = held[: len(block) - offset]
        x.copy_(_as_tensor(block[offset : offset + batch]))
        module.write(x, into[offset : offset + len(x)])
    return out


def outcomes(sets: list[FeatureSet], rows: int) -> tuple[NDArray[np.uint8], list[RowFailure]]:
    """What became of each of the first rows in all sets: the first set that lacks it tells, and why."""
    status, failures = sets[0].status()[:rows], sets[0].failures()
    for item in sets[1:]:
        fresh = (status == RowStatus.VALID) & (item.status()[:rows] != RowStatus.VALID)
        status = np.where(fresh, item.status()[:rows], status)
        failures = failures + [failure for failure in item.failures() if failure.row < rows and fresh[failure.row]]
    return status, sorted(failures, key=lambda failure: failure.row)


def map_rows(
    module: FeatureMap,
    source: FeatureSet,
    sides: Sequence[FeatureSet],
    start: int,
    stop: int,
    out: NDArray[np.float32],
) -> None:
    """Map rows [start, stop) into `out` [stop − start, D_out]."""
    beside = [_whole(item, start, stop) for item in sides]
    for first, block in source.scan(rows=(start, stop)):  # stored chunks: views of the file, no copy
        part = slice(first - start, first - start + len(block))
        if beside:
            block = np.concatenate([block, *(item[part] for item in beside)], axis=1, dtype=np.float32)
        map_block(module, block, out[part])


def _whole(features: FeatureSet, start: int, stop: int) -> NDArray[np.float32]:
    """Rows [start, stop), because chunks of sets of different widths do not end together."""
    rows = np.empty((stop - start, features.width), np.float32)
    for first, block in features.scan(rows=(start, stop)):
        rows[first - start : first - start + len(block)] = block
    return rows


def _as_tensor(block: NDArray[Any]) -> torch.Tensor:
    # in a shard only the checksum's 4 bytes are sure to divide an offset, and torch wants float64 aligned to 8
    return torch.from_numpy(block.astype(np.float32) if block.dtype.itemsize > 4 else block)
