"""Compaction: the same rows and features in fewer and larger files, without the rows that were removed.

Row numbers stay what they are within a layout of a dataset. Where rows were removed, compaction begins a new layout:

    1. every feature set is written anew with the new row numbers, as unfinished segments that no version names yet
    2. the dataset is committed in the new layout; its sets still read as before, against its last version in the old one
    3. each feature set is committed in the new layout

A crash leaves one of these states, and the same command goes on from there: the segments are planned and filled like any
other, by as many processes as run the command, and a set that is behind its dataset is one that step 3 has not reached.
Whatever a concurrent writer commits in between makes the commits of steps 2 and 3 fail, and the survey begin anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.errors import ConflictError, CorruptStoreError, NotFoundError, UnknownNameError
from featstore.progress import SILENT, Progress
from featstore.spaces import Space
from featstore.store.canary import take_over_canary
from featstore.store.dataset import Dataset
from featstore.store.features import FeatureSet, RowStatus, features_log
from featstore.store.heartbeats import place_time
from featstore.store.job import FeatureJob
from featstore.store.live_plans import COMPACTS, live_plans
from featstore.store.names import parse_dataset
from featstore.store.plans import plan_segment, plan_shard_rows
from featstore.store.records import FeatureSetVersion, Mixture, VectorSegment
from featstore.store.replacement import write_mixture
from featstore.store.rows import rewrite
from featstore.store.store import Store
from featstore.store.verify import verify

__all__ = ["CompactReport", "SetCompaction", "compact"]

_TRIES = 20
# so many times the shards that a set could do with are worth a rewrite
_WORTH_SHARDS = 2
_MANY_PARTS = 8
_SMALL_PART_ROWS = 1 << 16
_CHANGED = "{} changed meanwhile; what is written stays, and the rest is looked at again"


@dataclass(frozen=True, slots=True)
class SetCompaction:
    """What became of one feature set.

    Attributes:
        set: `DATASET/NAME@version`, the new one.
        before: The same before.
        shards: Shards now.
        shards_before: Shards before.
        rows: Rows now.
        rows_before: Rows before, removed ones included.
    """

    set: str
    before: str
    shards: int
    shards_before: int
    rows: int
    rows_before: int


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did; nothing, when it names no versions.

    Attributes:
        dataset: `DATASET@version`, the newest.
        removed: Rows that the new layout has no more.
        sets: The feature sets that were written anew.
    """

    dataset: str
    removed: int
    sets: tuple[SetCompaction, ...]


@dataclass(frozen=True)
class _Rewriting:
    """One set to be written anew: which of its rows, in the order they will have, and the job; none when no row is left."""

    base: FeatureSetVersion
    source: FeatureSet
    rows: NDArray[np.int64]
    layout: int
    job: FeatureJob | None


def compact(store: Store, name: str, progress: Progress = SILENT) -> CompactReport:
    """Write a dataset and its feature sets anew where rows were removed, or where they lie in many small pieces.

    Old versions keep the old files until `collect_garbage` drops them.

    Args:
        store: The store.
        name: The dataset.
        progress: Told how far it is, in rows.

    Raises:
        ConflictError: another process is filling a feature set of the dataset, or the dataset keeps changing.
        CorruptStoreError: a shard that would have to be copied is damaged.
    """
    plain, _ = parse_dataset(name)
    _refuse_live(store, plain)
    removed = 0
    done: dict[str, SetCompaction] = {}
    for _ in range(_TRIES):
        sets = _newest(store, plain)
        # read after the sets: rows are committed before their features, so it has all that the sets have
        dataset = store.dataset(plain)
        try:
            gone = len(dataset.removed_rows)
            layout = dataset.layout + (1 if gone else 0)
            todo = _survey(store, dataset, sets, layout)
            if not (todo or gone or _in_pieces(dataset)):
                return CompactReport(f"{plain}@{dataset.version}", removed, tuple(done.values()))
            for part in todo:
                _fill(store, part, progress)
            if gone or _in_pieces(dataset):
                rewrite(store.files, dataset, provenance={"made by": "compact", "rows removed": gone})
                removed += gone
            for part in todo:
                made = _commit(store, part)
                before = done[part.source.name] if part.source.name in done else _compaction(part.base, part.base)
                done[part.source.name] = _compaction(part.base, made, before)
        except ConflictError:
            _refuse_live(store, plain)
            progress.note(_CHANGED.format(plain))
        except (CorruptStoreError, NotFoundError, UnknownNameError):
            # what another compaction has replaced meanwhile may be collected at once, without grace
            if _newest(store, plain) == sets and store.dataset(plain).version == dataset.version:
                raise
            progress.note(_CHANGED.format(plain))
    raise ConflictError(
        f"dataset {plain} keeps changing while it is compacted", hint="let the other writers finish, then run it again"
    )


def _refuse_live(store: Store, dataset: str) -> None:
    for live in live_plans(store, dataset, now=place_time(store.files)):
        others = [writer for writer in live.writers if not writer.here]
        if others and not live.plan.source.startswith(COMPACTS):
            raise ConflictError(
                f"{live.set} is being filled by {others[0]}, since {others[0].started or 'some time'}",
                hint="let it finish, or wait ten minutes after it stopped; then run the same command again",
            )


def _newest(store: Store, dataset: str) -> list[FeatureSetVersion]:
    """The newest version of each feature set of a dataset."""
    found = (features_log(store.files, dataset, name).latest() for name in store.feature_sets(dataset))
    return [record for record in found if record is not None]


def _survey(store: Store, dataset: Dataset, sets: Sequence[FeatureSetVersion], layout: int) -> list[_Rewriting]:
    """The sets that do not have the layout yet, or lie in many small shards."""
    found = []
    for base in sets:
        if base.layout == layout and not _scattered(base):
            continue
        # every layout between the set's and the wanted one ended with a version whose removed rows were left out
        ended = [store.dataset(dataset.name, number) for number in dataset.record.earlier[base.layout - 1 :]]
        if layout > dataset.layout:
            ended.append(dataset)
        source = FeatureSet(store.files, base, ended[0] if ended else dataset)
        rows = _kept(base.rows, ended)
        origin = " ".join([COMPACTS, base.uuid, *(part.name for old in ended for part in old.record.removed)])
        found.append(_Rewriting(base, source, rows, layout, _planned(store, source, len(rows), layout, origin)))
    return found


def _planned(store: Store, source: FeatureSet, rows: int, layout: int, origin: str) -> FeatureJob | None:
    if not rows:
        return None
    record = source.record
    plan = plan_segment(
        source.dataset, record.name, record.space, record.dtype, stop=rows, source=origin, layout=layout
    )
    return FeatureJob.planned(store.files, plan)


def _kept(rows: int, ended: Sequence[Dataset]) -> NDArray[np.int64]:
    """Which of the first `rows` rows of the first dataset are live in it and in all that followed, ascending."""
    kept = np.arange(rows, dtype=np.int64)
    numbers = kept
    for dataset in ended:
        live = np.ones(dataset.rows, dtype=bool)
        live[dataset.removed_rows] = False
        there = live[numbers]
        kept, numbers = kept[there], (np.cumsum(live) - 1)[numbers[there]]
    return kept


def _fill(store: Store, part: _Rewriting, progress: Progress) -> None:
    job = part.job
    if job is None:
        return
    take_over_canary(store.files, part.source, part.rows, job.plan)
    pending = job.pending()
    if not pending:
        return
    # a damaged byte must not get a new checksum by being copied
    report = verify(store, part.source.ref, full=True, progress=progress)
    if report.problems:
        raise CorruptStoreError(
            f"{part.source.ref} cannot be written anew: {report.problems[0].where} {report.problems[0].what}",
            hint=f"mend it first with `featstore repair {part.source.name}`",
        )
    left = sum(stop - start for start, stop in map(job.shard_range, pending))
    progress.start(f"compact {part.source.name}", job.stop, "rows", done=job.stop - left)
    job.tell_of_others(progress)
    status, digests = part.source.status(), part.source.input_digests()
    failures = {failure.row: failure for failure in part.source.failures()}
    # several processes begin at different shards, so that they meet late
    first = os.getpid() % len(pending)
    for shard in [*pending[first:], *pending[:first]]:
        start, stop = job.shard_range(shard)
        rows = part.rows[start:stop]
        if not job.is_done(shard):
            failed = np.flatnonzero(status[rows] == RowStatus.FAILED).tolist()
            job.publish(
                shard,
                _read(part.source, rows),
                status=status[rows],
                digests=digests[rows],
                failures=[
                    failures[old].model_copy(update={"row": start + new})
                    for new, old in zip(failed, rows[failed].tolist(), strict=True)
                    if old in failures
                ],
            )
        progress.advance(stop - start)


def _read(source: FeatureSet, rows: NDArray[np.int64]) -> NDArray[np.float64 | np.float32 | np.float16]:
    """Ascending rows as [len(rows), D]; NaN where there is no feature."""
    out = np.empty((len(rows), source.width), dtype=source.dtype)
    for first, block in source.scan(rows=(int(rows[0]), int(rows[-1]) + 1)):
        begin, end = np.searchsorted(rows, (first, first + len(block)))
        out[begin:end] = block[rows[begin:end] - first]
    return out


def _commit(store: Store, part: _Rewriting) -> FeatureSetVersion:
    segments: tuple[VectorSegment, ...] = (part.job.seal(),) if part.job else ()
    mixture = part.base.mixture
    if mixture is not None:
        mixture = _mixture_of(store, part, mixture.parts, segments[0]) if part.job else None

    def build(newest: FeatureSetVersion | None, number: int) -> FeatureSetVersion | None:
        base = part.base
        if newest is not None and newest.layout == part.layout and set(segments) <= set(newest.segments):
            return None  # another process has committed the same
        if newest is None or newest.uuid != base.uuid:
            raise ConflictError(f"{part.source.name} got another version meanwhile", hint="run the same command again")
        return base.successor(
            number,
            layout=part.layout,
            rows=len(part.rows),
            segments=segments,
            mixture=mixture,
            damaged=(),  # row numbers of an earlier layout; verify has passed what was copied
            provenance={**base.provenance, "compacted from": base.number},
        )

    return features_log(store.files, part.base.dataset, part.base.name).commit(build)


def _mixture_of(store: Store, part: _Rewriting, parts: tuple[Space, ...], segment: VectorSegment) -> Mixture:
    assert part.job is not None  # noqa: S101 - for the type checker; the only caller has looked
    valid = part.source.status()[part.rows] == RowStatus.VALID
    return write_mixture(store.files, part.job, segment, parts, part.source.part_of_rows()[part.rows], valid)


def _compaction(base: FeatureSetVersion, made: FeatureSetVersion, before: SetCompaction | None = None) -> SetCompaction:
    name = f"{made.dataset}/{made.name}"
    return SetCompaction(
        set=f"{name}@{made.number}",
        before=before.before if before else f"{name}@{base.number}",
        shards=_shards(made),
        shards_before=before.shards_before if before else _shards(base),
        rows=made.rows,
        rows_before=before.rows_before if before else base.rows,
    )


def _shards(record: FeatureSetVersion) -> int:
    return sum(len(part.shards) for part in record.segments)


def _scattered(record: FeatureSetVersion) -> bool:
    """Whether a set has many more shards than it needs."""
    row_bytes = record.space.width * np.dtype(record.dtype).itemsize
    needed = -(-record.rows // plan_shard_rows(record.rows, row_bytes)) if record.rows else 0
    return _shards(record) > _WORTH_SHARDS * needed


def _in_pieces(dataset: Dataset) -> bool:
    """Whether the rows lie in many small segments and overlays."""
    parts = len(dataset.record.segments) + len(dataset.record.overlays)
    return parts > _MANY_PARTS and dataset.rows < parts * _SMALL_PART_ROWS
