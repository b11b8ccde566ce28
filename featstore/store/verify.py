"""Checking a store's bytes against what was recorded when they were published.

Quick looks at structure: every file of every version is there with the right size and the right metadata. Full reads every
byte and compares digests, so it finds any flipped bit. Nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from blake3 import blake3

from featstore.errors import CorruptStoreError, FeatstoreError, UsageError
from featstore.progress import SILENT, Progress
from featstore.store.canary import canary_key, is_damaged
from featstore.store.dataset import Dataset, segment_key
from featstore.store.digest_index import DIGEST_BYTES, index_files, index_sizes, indexed_inputs, pointer_key
from featstore.store.features import FeatureSet, group_key, plan_key
from featstore.store.records import (
    IndexPointer,
    Overlay,
    Removal,
    RowSegment,
    ShardRecord,
    VectorSegment,
    dump,
    fetch,
    fetch_all,
)
from featstore.store.sealing import segment_metadata, shards_digest
from featstore.store.store import Store
from featstore.store.zarr_format import CRC_BYTES, chunk_key, shard_bytes

__all__ = ["Problem", "VerifyReport", "verify"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was published.

    Attributes:
        where: The file or folder.
        what: What is wrong with it.
        rows: Dataset rows [start, stop) that it holds, None when it is no single shard.
    """

    where: str
    what: str
    rows: tuple[int, int] | None = None


@dataclass(slots=True)
class VerifyReport:
    """What was looked at and what was found.

    Attributes:
        names: Datasets and feature sets looked at, with their versions.
        shards: Shards looked at.
        bytes_read: Bytes whose digests were compared.
        problems: Everything wrong; empty when all is well.
    """

    names: list[str] = field(default_factory=list)
    shards: int = 0
    bytes_read: int = 0
    problems: list[Problem] = field(default_factory=list)


def verify(
    store: Store, what: str | None = None, *, full: bool = False, sample: float = 1.0, progress: Progress = SILENT
) -> VerifyReport:
    """Check the newest version of a dataset with its feature sets, of one feature set, or of everything.

    Args:
        store: The store.
        what: `DATASET`, `DATASET/NAME[@version]`, or None for all.
        full: Read every byte and compare digests.
        sample: With `full`, the share of shards that is read, chosen evenly; structure is always checked everywhere.
        progress: Listener.

    Raises:
        UsageError: `sample` is not in (0, 1].
        UnknownNameError: nothing has that name.
    """
    if not 0 < sample <= 1:
        raise UsageError(f"a sample of {sample:g} of the shards", hint="give a share above 0 and up to 100%")
    datasets = store.datasets() if what is None else [] if "/" in what else [what]
    references = [what] if what is not None and "/" in what else []
    references += [f"{name}/{part}" for name in datasets for part in store.feature_sets(name.partition("@")[0])]
    report = VerifyReport()
    for name in [*datasets, *references]:
        try:
            report.problems += [Problem(store.files.where(key), "is damaged") for key in store.damaged_documents(name)]
            if "/" in name:
                _check_features(store, store.features(name), report, full=full, sample=sample, progress=progress)
            else:
                _check_dataset(store, store.dataset(name), report, full=full)
        except UsageError:
            raise
        except (
            FeatstoreError
        ) as error:  # damage that keeps it from being opened is a finding; the rest is still checked
            report.problems.append(Problem(name, error.message))
    return report


def _check_dataset(store: Store, dataset: Dataset, report: VerifyReport, *, full: bool) -> None:
    report.names.append(f"{dataset.name}@{dataset.version}")
    record = dataset.record
    parts: list[RowSegment | Overlay | Removal] = [*record.segments, *record.overlays, *record.removed]
    for part in parts:
        _check_group(store, segment_key(dataset.name, part.name), part.digest, report)
    if full:
        live = dataset.live_rows()
        lost = live[dataset.ids.rows_of(dataset.ids.take(live)) != live]
        report.problems += [
            Problem(dataset.name, f"the id index does not find row {row}", (row, row + 1)) for row in lost.tolist()
        ]


def _check_group(store: Store, key: str, digest: str, report: VerifyReport) -> None:
    """A group whose digest covers all of its files."""
    digests: dict[str, str] = {}
    for info in store.files.walk(key):
        data = store.files.get(info.key)
        report.bytes_read += len(data)
        digests[info.key.removeprefix(f"{key}/")] = blake3(data).hexdigest()
    listing = "\n".join(f"{name} {found}" for name, found in sorted(digests.items()))
    if blake3(listing.encode()).hexdigest() != digest:
        report.problems.append(Problem(store.files.where(key), "its files are not those that were published"))


def _check_features(
    store: Store, features: FeatureSet, report: VerifyReport, *, full: bool, sample: float, progress: Progress
) -> None:
    report.names.append(features.ref)
    shards = [(part, k) for part in features.record.segments for k in part.shards]
    chosen = set(np.linspace(0, len(shards) - 1, max(1, math.ceil(sample * len(shards)))).astype(int).tolist())
    progress.start(f"verify {features.ref}", len(shards), "shards")
    if mixture := features.record.mixture:
        _check_group(store, group_key(features.record, mixture.name), mixture.digest, report)
    records: list[ShardRecord | None] = []
    for part in features.record.segments:
        found = _records(store, features, part)
        records += found
        report.problems += _check_segment(store, features, part, found)
        report.problems += _check_index(store, features, part, report, full=full)
    for number, ((part, shard), record) in enumerate(zip(shards, records, strict=True)):
        report.shards += 1
        report.problems += _check_shard(store, features, part, shard, record, report, read=full and number in chosen)
        progress.advance(1)


def _check_segment(
    store: Store, features: FeatureSet, part: VectorSegment, records: list[ShardRecord | None]
) -> Iterator[Problem]:
    """Metadata, the canary, and the digest over all shard records."""
    base = group_key(features.record, part.name)
    expected = segment_metadata(part.group_rows, features.width, features.dtype, part.chunk_rows, part.shard_rows)
    for name, document in expected.items():
        key = f"{base}/{name}"
        if not store.files.exists(key):
            yield Problem(store.files.where(key), "is missing")
        elif store.files.get(key) != document:
            yield Problem(store.files.where(key), "is not the metadata of this segment")
    canary = canary_key(features.record, part.name)
    if is_damaged(store.files, canary):
        yield Problem(store.files.where(canary), "is damaged")
    if part.rows < part.group_rows:
        return  # a repair replaced some of its shards; what their records were is not known any more
    whole = [record for record in records if record is not None]
    if len(whole) == len(records) and shards_digest(whole) != part.digest:
        yield Problem(
            store.files.where(plan_key(features.record.dataset, features.record.name, part.name)),
            "the shard records are not those that were committed",
        )


def _check_index(
    store: Store, features: FeatureSet, part: VectorSegment, report: VerifyReport, *, full: bool
) -> Iterator[Problem]:
    """The digest index: its pointer, and with `full` that it names the rows it should."""
    if not part.indexed:
        return
    pointer = IndexPointer(dataset=features.record.dataset, name=features.record.name, segment=part.name)
    key = pointer_key(features.space, pointer)
    if not store.files.exists(key):
        yield Problem(store.files.where(key), "is missing")
    elif store.files.get(key) != dump(pointer):
        yield Problem(store.files.where(key), "is not the pointer to this segment's index")
    base = group_key(features.record, part.name)
    whole = True
    for name, size in index_sizes(part.indexed).items():
        found = store.files.size(f"{base}/{name}")
        if found != size:
            whole = False
            what = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            yield Problem(store.files.where(f"{base}/{name}"), what)
    if not full or not whole:
        return
    shards = range(-(-part.group_rows // part.shard_rows))
    try:
        made_of = indexed_inputs(store.files, base, shards, rows=part.group_rows, shard_rows=part.shard_rows)
    except CorruptStoreError:
        return  # what it is made of is damaged, which is found there
    for name, pieces in index_files(*made_of):
        report.bytes_read += sum(map(len, pieces))
        if store.files.get(f"{base}/{name}") != b"".join(pieces):
            yield Problem(store.files.where(f"{base}/{name}"), "does not index the rows of this segment")


def _check_shard(
    store: Store,
    features: FeatureSet,
    part: VectorSegment,
    shard: int,
    record: ShardRecord | None,
    report: VerifyReport,
    *,
    read: bool,
) -> Iterator[Problem]:
    rows = part.shard_span(shard)
    if record is None:
        yield Problem(store.files.where(_record_key(features, part, shard)), "is missing or damaged", rows)
        return
    row_bytes = features.width * features.dtype.itemsize
    sizes = {
        chunk_key("features", shard, 2): shard_bytes(
            min(part.shard_rows, part.group_rows - shard * part.shard_rows), row_bytes, part.chunk_rows, part.shard_rows
        ),
        chunk_key("input_digest", shard, 2): part.shard_rows * DIGEST_BYTES + CRC_BYTES,
        chunk_key("status", shard): part.shard_rows + CRC_BYTES,
    }
    base = group_key(features.record, part.name)
    for name, size in sizes.items():
        key = f"{base}/{name}"
        found = store.files.size(key)
        if found is None:
            yield Problem(store.files.where(key), "is missing", rows)
        elif found != size:
            yield Problem(store.files.where(key), f"has {found:,} bytes instead of {size:,}", rows)
        elif read:
            report.bytes_read += size
            if blake3(store.files.view(key)).hexdigest() != record.digests.get(name.partition("/")[0]):
                yield Problem(store.files.where(key), "holds other bytes than were published", rows)


def _records(store: Store, features: FeatureSet, part: VectorSegment) -> list[ShardRecord | None]:
    """The record of each listed shard, None where it is missing or damaged."""
    keys = [_record_key(features, part, shard) for shard in part.shards]
    try:
        return list(fetch_all(store.files, ShardRecord, keys))
    except FeatstoreError:
        return [_sound(store, key) for key in keys]


def _sound(store: Store, key: str) -> ShardRecord | None:
    try:
        return fetch(store.files, ShardRecord, key)
    except FeatstoreError:
        return None


def _record_key(features: FeatureSet, part: VectorSegment, shard: int) -> str:
    return f"{plan_key(features.record.dataset, features.record.name, part.name)}/shards/{shard}.json"
