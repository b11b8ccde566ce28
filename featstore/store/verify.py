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

from featstore.errors import FeatstoreError, UsageError
from featstore.progress import SILENT, Progress
from featstore.store.dataset import Dataset, segment_key
from featstore.store.features import FeatureSet, plan_key, set_key
from featstore.store.job import DIGEST_BYTES, segment_metadata, shards_digest
from featstore.store.records import Overlay, RowSegment, ShardRecord, VectorSegment, load
from featstore.store.store import Store
from featstore.store.zarr_format import CRC_BYTES, shard_bytes

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
    parts: list[RowSegment | Overlay] = [*dataset.record.segments, *dataset.record.overlays]
    for part in parts:
        key = segment_key(dataset.name, part.name)
        folder = store.files.path(key)
        digests: dict[str, str] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            data = path.read_bytes()
            report.bytes_read += len(data)
            digests[path.relative_to(folder).as_posix()] = blake3(data).hexdigest()
        listing = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
        if blake3(listing.encode()).hexdigest() != part.digest:
            report.problems.append(Problem(str(folder), "its files are not those that were published"))
    if full:
        for row, text in enumerate(dataset.ids):
            if dataset.ids.rows_of([text])[0] != row:
                report.problems.append(Problem(dataset.name, f"the id index does not find row {row}", (row, row + 1)))


def _check_features(
    store: Store, features: FeatureSet, report: VerifyReport, *, full: bool, sample: float, progress: Progress
) -> None:
    report.names.append(features.ref)
    shards = [(part, k) for part in features.record.segments for k in range(_count(part))]
    chosen = set(np.linspace(0, len(shards) - 1, max(1, math.ceil(sample * len(shards)))).astype(int).tolist())
    progress.start(f"verify {features.ref}", len(shards), "shards")
    for part in features.record.segments:
        report.problems += _check_segment(store, features, part)
    for number, (part, shard) in enumerate(shards):
        report.shards += 1
        report.problems += _check_shard(store, features, part, shard, report, read=full and number in chosen)
        progress.advance(1)


def _check_segment(store: Store, features: FeatureSet, part: VectorSegment) -> Iterator[Problem]:
    """Metadata and the digest over all shard records."""
    base = set_key(features.record.dataset, features.record.name)
    expected = segment_metadata(
        part.stop - part.start, features.width, features.dtype, part.chunk_rows, part.shard_rows
    )
    for name, document in expected.items():
        path = store.files.path(f"{base}/segments/{part.name}/{name}")
        if not path.is_file():
            yield Problem(str(path), "is missing")
        elif path.read_bytes() != document:
            yield Problem(str(path), "is not the metadata of this segment")
    records = [_record(store, features, part, shard) for shard in range(_count(part))]
    whole = [record for record in records if record is not None]
    if len(whole) == len(records) and shards_digest(whole) != part.digest:
        yield Problem(
            str(store.files.path(plan_key(features.record.dataset, features.record.name, part.name))),
            "the shard records are not those that were committed",
        )


def _check_shard(
    store: Store, features: FeatureSet, part: VectorSegment, shard: int, report: VerifyReport, *, read: bool
) -> Iterator[Problem]:
    first = part.start + shard * part.shard_rows
    rows = (first, min(part.stop, first + part.shard_rows))
    record = _record(store, features, part, shard)
    if record is None:
        key = plan_key(features.record.dataset, features.record.name, part.name)
        yield Problem(str(store.files.path(f"{key}/shards/{shard}.json")), "is missing or damaged", rows)
        return
    row_bytes = features.width * features.dtype.itemsize
    sizes = {
        f"features/c/{shard}/0": shard_bytes(rows[1] - rows[0], row_bytes, part.chunk_rows, part.shard_rows),
        f"input_digest/c/{shard}/0": part.shard_rows * DIGEST_BYTES + CRC_BYTES,
        f"status/c/{shard}": part.shard_rows + CRC_BYTES,
    }
    base = f"{set_key(features.record.dataset, features.record.name)}/segments/{part.name}"
    for name, size in sizes.items():
        path = store.files.path(f"{base}/{name}")
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            yield Problem(str(path), "is missing", rows)
        elif found != size:
            yield Problem(str(path), f"has {found:,} bytes instead of {size:,}", rows)
        elif read:
            report.bytes_read += size
            if blake3().update_mmap(path).hexdigest() != record.digests.get(name.partition("/")[0]):
                yield Problem(str(path), "holds other bytes than were published", rows)


def _record(store: Store, features: FeatureSet, part: VectorSegment, shard: int) -> ShardRecord | None:
    key = f"{plan_key(features.record.dataset, features.record.name, part.name)}/shards/{shard}.json"
    try:
        return load(ShardRecord, store.files.get(key), where=str(store.files.path(key)))
    except FeatstoreError:
        return None


def _count(part: VectorSegment) -> int:
    return -(-(part.stop - part.start) // part.shard_rows)
