"""What is left of a damaged shard, and where the rest of its rows can come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError
from featstore.store.chunks import CheckedChunks, row_chunk
from featstore.store.features import FeatureSet, RowStatus, group_key
from featstore.store.files import Files
from featstore.store.records import ShardRecord, VectorSegment
from featstore.store.reuse import DigestIndex
from featstore.store.store import Store
from featstore.store.zarr_format import chunk_key

__all__ = ["CopyRows", "IndexRows", "RowSource", "Salvage", "Wanted", "salvage"]


@dataclass(frozen=True)
class Wanted:
    """Rows that have to come from somewhere.

    Attributes:
        features: The feature set.
        part: The segment that lists them.
        rows: Dataset rows, ascending.
        digests: 128-bit blake3 of each row's input, [n, 16]; zero where that was lost too.
    """

    features: FeatureSet
    part: VectorSegment
    rows: NDArray[np.int64]
    digests: NDArray[np.uint8]


class RowSource(Protocol):
    """Somewhere that features can come from."""

    @property
    def name(self) -> str:
        """What provenance says."""
        ...

    def fetch(self, wanted: Wanted, out: NDArray[Any]) -> NDArray[np.bool_]:
        """Put what there is into `out` [n, D]; which rows were found. May fill in digests that were lost."""
        ...


@dataclass
class Salvage:
    """The rows of one shard, as far as they are known.

    Attributes:
        part: The segment that lists it.
        shard: Its number.
        features: [n, D] in the stored dtype, NaN where unknown or without a feature.
        status: RowStatus, [n].
        digests: [n, 16]; zero where unknown.
        lacking: Positions of rows that must have a feature and have none.
        record: Its record, None if that is lost.
        sources: How many rows came from where.
    """

    part: VectorSegment
    shard: int
    features: NDArray[Any]
    status: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    lacking: NDArray[np.int64]
    record: ShardRecord | None
    sources: Counter[str] = field(default_factory=Counter)

    @property
    def first(self) -> int:
        """Dataset row of the first."""
        return self.part.shard_span(self.shard)[0]

    @property
    def valid(self) -> int:
        """Rows with a feature, those included whose feature is lacking."""
        return int((self.status == RowStatus.VALID).sum())

    def take(self, source: RowSource, features: FeatureSet) -> None:
        """Ask a source for the rows that are lacking."""
        if not len(self.lacking):
            return
        wanted = Wanted(features, self.part, self.first + self.lacking, self.digests[self.lacking])
        out = np.full((len(self.lacking), features.width), np.nan, dtype=features.dtype)
        found = source.fetch(wanted, out) & np.isfinite(out).all(axis=1)
        self.features[self.lacking[found]] = out[found]
        self.digests[self.lacking[found]] = wanted.digests[found]
        self.lacking = self.lacking[~found]
        if found.any():
            self.sources[source.name] += int(found.sum())


def salvage(files: Files, features: FeatureSet, part: VectorSegment, shard: int, record: ShardRecord | None) -> Salvage:
    """What checksums prove good of a shard.

    Args:
        files: The store's files.
        features: The set.
        part: The segment.
        shard: Number of the shard.
        record: Its record, if that is sound.
    """
    first, stop = part.shard_span(shard)
    rows = stop - first
    key = group_key(features.record, part.name)
    values = np.full((rows, features.width), np.nan, dtype=features.dtype)
    here = shard * part.shard_rows + np.arange(rows)
    read = CheckedChunks(files, key, part, features.width, features.dtype).features(here, values)
    status = _rows(files, chunk_key(f"{key}/status", shard), part.shard_rows, 1)
    if status is None:
        # a published row is NaN throughout unless it is valid; of the others the ledger tells failed from absent
        seen = np.where(np.isfinite(values).all(axis=1) | ~read, RowStatus.VALID, RowStatus.ABSENT).astype(np.uint8)
        for failure in record.failures if record else ():
            seen[failure.row - first] = RowStatus.FAILED
    else:
        seen = status[:rows, 0].copy()
    digests = _rows(files, chunk_key(f"{key}/input_digest", shard, 2), part.shard_rows, 16)
    known = np.zeros((rows, 16), dtype=np.uint8) if digests is None else digests[:rows].copy()
    lacking = np.flatnonzero((seen == RowStatus.VALID) & ~np.isfinite(values).all(axis=1))
    return Salvage(part, shard, values, seen, known, lacking, record)


class CopyRows:
    """The same chunks in a second copy of the store."""

    name = "second copy"

    def __init__(self, files: Files) -> None:
        self._files = files

    def fetch(self, wanted: Wanted, out: NDArray[Any]) -> NDArray[np.bool_]:
        """Rows of the copy's chunks that match their checksums."""
        features, part = wanted.features, wanted.part
        key = group_key(features.record, part.name)
        chunks = CheckedChunks(self._files, key, part, features.width, features.dtype)
        rows = wanted.rows - part.start + part.offset
        digests = chunks.digests(rows)
        known = wanted.digests.any(axis=1)
        wanted.digests[~known] = digests[~known]
        same: NDArray[np.bool_] = (digests == wanted.digests).all(axis=1)
        return chunks.features(rows, out) & same


class IndexRows:
    """Other rows of the same space that were made from the same inputs."""

    name = "digest index"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._indexes: dict[str, DigestIndex] = {}

    def fetch(self, wanted: Wanted, out: NDArray[Any]) -> NDArray[np.bool_]:
        """Features of the same inputs in this store."""
        space = wanted.features.space
        if space.digest not in self._indexes:
            self._indexes[space.digest] = DigestIndex(self._store, space)
        copied = self._indexes[space.digest].copy(wanted.digests, wanted.features.dtype)
        out[:] = copied.features
        return copied.found


def _rows(files: Files, key: str, rows: int, width: int) -> NDArray[np.uint8] | None:
    try:
        return row_chunk(files, key, rows, width)
    except CorruptStoreError:
        return None
