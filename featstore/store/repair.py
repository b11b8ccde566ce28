"""Repair: files put back bit for bit where their bytes are proven, damaged rows replaced by a new segment where not.

What a digest proves is put back under its own name (see `featstore.store.restore`), and every version and tag that names it is
whole again. Rows that can only be had with other bits (encoded again on another machine) go into a new segment (see
`featstore.store.mending`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.progress import SILENT, Progress
from featstore.store.canary import canary_key, is_damaged, nothing_kept
from featstore.store.dataset import segment_key
from featstore.store.digest_index import index_files, indexed_inputs, pointer_key
from featstore.store.features import FeatureSet, RowStatus, group_key, plan_key, set_key
from featstore.store.mending import Replaced, replace_shards
from featstore.store.names import SetRef, parse_dataset, parse_set
from featstore.store.records import (
    DatasetVersion,
    FeatureSetVersion,
    IndexPointer,
    Overlay,
    Removal,
    RowSegment,
    ShardRecord,
    VectorSegment,
    dump,
    fetch,
)
from featstore.store.restore import Restorer, open_copy
from featstore.store.salvage import CopyRows, IndexRows, RowSource, Salvage, salvage
from featstore.store.sealing import segment_metadata, shards_digest
from featstore.store.store import Store
from featstore.store.verify import Problem, verify
from featstore.store.zarr_format import chunk_key, encode_chunk, encode_shard

__all__ = ["RepairReport", "repair"]

_FILES = ("features", "input_digest", "status")


@dataclass(slots=True)
class RepairReport:
    """What a repair found and did.

    Attributes:
        problems: What `verify` found before.
        restored: Files that were put back bit for bit, and from what.
        replaced: Rows that a new segment holds.
        unmended: What is still damaged: the place, why, and the ids of the rows that have no feature any more.
        remaining: What `verify` finds now; in a dry run nothing was written, and this stays empty.
        dry_run: Whether nothing was written.
    """

    problems: list[Problem]
    restored: list[tuple[str, str]] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)
    unmended: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    remaining: list[Problem] = field(default_factory=list)
    dry_run: bool = False

    @property
    def mended(self) -> bool:
        """Whether nothing is damaged any more (or would be, after a dry run)."""
        return not self.unmended and not self.remaining


def repair(
    store: Store,
    what: str | None = None,
    *,
    copy: str | None = None,
    sources: Sequence[RowSource] = (),
    give_up: bool = False,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> RepairReport:
    """Mend what `verify --full` finds.

    The rows of a damaged shard come from its own sound chunks, from a second copy, from other rows of the space with the same
    inputs, and from `sources`, in this order.

    Args:
        store: The store.
        what: `DATASET`, `DATASET/NAME`, or None for all.
        copy: Folder or URL of a second copy of the store.
        sources: Further places for rows, for instance `featstore.extract.EncodeAgain`.
        give_up: Let rows that nothing has count as failed, with an entry in the ledger, instead of leaving them damaged.
        dry_run: Write nothing.
        progress: Listener.

    Raises:
        UsageError: `copy` is another store.
    """
    report = RepairReport(verify(store, what, full=True, progress=progress).problems, dry_run=dry_run)
    restorer = Restorer(store.files, open_copy(copy, store.files) if copy else None, dry_run)
    work = _Repair(store, what, restorer, sources, give_up, report)
    work.histories()
    if not report.problems and not restorer.restored:
        return report
    work.contents()
    report.restored = restorer.restored
    report.unmended += [(where, why, ()) for where, why in restorer.unmended]
    if not dry_run:
        report.remaining = verify(store, what, full=True, progress=progress).problems
    return report


class _Repair:
    """One run."""

    def __init__(
        self,
        store: Store,
        what: str | None,
        restorer: Restorer,
        sources: Sequence[RowSource],
        give_up: bool,
        report: RepairReport,
    ) -> None:
        self._store = store
        self._files = store.files
        self._what = what
        self._restorer = restorer
        copies: list[RowSource] = [CopyRows(restorer.copy)] if restorer.copy is not None else []
        self._sources: list[RowSource] = [*copies, IndexRows(store), *sources]
        self._give_up = give_up
        self._report = report

    def histories(self) -> None:
        """Versions and tags, without which nothing else can be looked at."""
        for name in self._datasets():
            self._restorer.documents(f"datasets/{name}", DatasetVersion)
        for ref in self._sets():
            self._restorer.documents(set_key(ref.dataset, ref.name), FeatureSetVersion)

    def contents(self) -> None:
        """What the newest versions list."""
        for name in self._datasets():
            try:
                record = self._store.dataset(name).record
            except FeatstoreError as error:
                self._unreadable(name, error)
                continue
            parts: list[RowSegment | Overlay | Removal] = [*record.segments, *record.overlays, *record.removed]
            for part in parts:
                self._restorer.group(segment_key(name, part.name), part.digest)
        for ref in self._sets():
            try:
                if self._store.has_features(ref.key):
                    self._features(self._store.features(f"{ref.key}@{ref.version}" if ref.version else ref.key))
            except FeatstoreError as error:
                self._unreadable(ref.key, error)

    def _unreadable(self, name: str, error: FeatstoreError) -> None:
        # in a dry run its version may be damaged still, and nothing can be said of what it lists
        if not self._restorer.restored or not self._restorer.dry_run:
            self._report.unmended.append((name, error.message, ()))

    def _datasets(self) -> list[str]:
        if self._what is not None:
            return [] if "/" in self._what else [parse_dataset(self._what)[0]]
        copies = [] if self._restorer.copy is None else self._restorer.copy.names("datasets")
        return sorted({*self._files.names("datasets"), *copies})

    def _sets(self) -> Iterator[SetRef]:
        if self._what is not None and "/" in self._what:
            yield parse_set(self._what)
            return
        for dataset in self._datasets():
            for name in self._files.names(f"features/{dataset}"):
                yield SetRef(dataset, name, None)

    # --- one feature set -------------------------------------------------------------------------------------------

    def _features(self, features: FeatureSet) -> None:
        broken: list[Salvage] = []
        valid: dict[tuple[str, int], int] = {}
        if mixture := features.record.mixture:
            self._restorer.group(group_key(features.record, mixture.name), mixture.digest)
        for part in features.record.segments:
            self._metadata(features, part)
            found = self._records(features, part)
            for shard in part.shards:
                left = self._shard(features, part, shard, found.get(shard))
                if left is not None:
                    broken.append(left)
                record = found.get(shard) or left
                valid[part.name, shard] = record.valid if record is not None else 0
            self._index(features, part)
            self._canary(features, part)
        mendable = [left for left in broken if not len(left.lacking) or self._give_up]
        for left in broken:
            if len(left.lacking):
                ids = tuple(features.dataset.ids.take(left.first + left.lacking))
                if not self._give_up:
                    where = self._files.where(
                        chunk_key(f"{group_key(features.record, left.part.name)}/features", left.shard, 2)
                    )
                    self._report.unmended.append((where, f"{len(ids)} rows of {features.name} are lost", ids))
        if mendable:
            dry_run = self._restorer.dry_run
            self._report.replaced += replace_shards(self._files, features, mendable, valid, dry_run=dry_run)

    def _metadata(self, features: FeatureSet, part: VectorSegment) -> None:
        for name, document in segment_metadata(
            part.group_rows, features.width, features.dtype, part.chunk_rows, part.shard_rows
        ).items():
            key = f"{group_key(features.record, part.name)}/{name}"
            if self._restorer.read(key) != document:
                self._restorer.put(key, document, "the version that lists the segment")

    def _index(self, features: FeatureSet, part: VectorSegment) -> None:
        """The digest index follows from the other files."""
        if not part.indexed:
            return
        pointer = IndexPointer(dataset=features.record.dataset, name=features.record.name, segment=part.name)
        key = pointer_key(features.space, pointer)
        if self._restorer.read(key) != dump(pointer):
            self._restorer.put(key, dump(pointer), "the version that lists the segment")
        shards = range(-(-part.group_rows // part.shard_rows))
        group = group_key(features.record, part.name)
        try:
            inputs = indexed_inputs(self._files, group, shards, rows=part.group_rows, shard_rows=part.shard_rows)
        except CorruptStoreError:
            return  # the damage of these files is dealt with by shard
        for name, pieces in index_files(*inputs):
            if self._restorer.read(f"{group}/{name}") != b"".join(pieces):
                self._restorer.put(f"{group}/{name}", b"".join(pieces), "the input digests")

    def _canary(self, features: FeatureSet, part: VectorSegment) -> None:
        """Nothing else has the inputs; without a second copy the set does without."""
        key = canary_key(features.record, part.name)
        if not is_damaged(self._files, key):
            return
        copy = self._restorer.copy
        if copy is not None and copy.exists(key) and not is_damaged(copy, key):
            self._restorer.put(key, copy.get(key), "second copy")
        else:
            self._restorer.put(key, nothing_kept(), "nothing: the inputs that it kept are lost")

    def _records(self, features: FeatureSet, part: VectorSegment) -> dict[int, ShardRecord]:
        """The records of a segment's shards, as far as they are proven."""
        prefix = f"{plan_key(features.record.dataset, features.record.name, part.name)}/shards"
        found: dict[int, ShardRecord] = {}
        rebuilt: dict[int, tuple[ShardRecord, str]] = {}
        for shard in range(-(-part.group_rows // part.shard_rows)):
            key = f"{prefix}/{shard}.json"
            try:
                found[shard] = fetch(self._files, ShardRecord, key)
            except FeatstoreError:
                made = self._record_from_copy(key) or self._record_from_files(features, part, shard)
                if made is not None:
                    rebuilt[shard] = made
        everything = {**found, **{shard: record for shard, (record, _) in rebuilt.items()}}
        proven = shards_digest([everything[shard] for shard in sorted(everything)]) == part.digest
        if proven:
            for shard, (record, origin) in rebuilt.items():
                self._restorer.put(f"{prefix}/{shard}.json", dump(record), origin)
            return everything
        # a record with a sound checksum of its own counts where it cannot be compared: a later repair lists a segment in part
        return found if part.rows < part.group_rows or rebuilt or len(found) < len(part.shards) else {}

    def _record_from_copy(self, key: str) -> tuple[ShardRecord, str] | None:
        if self._restorer.copy is None:
            return None
        try:
            return fetch(self._restorer.copy, ShardRecord, key), "second copy"
        except FeatstoreError:
            return None

    def _record_from_files(
        self, features: FeatureSet, part: VectorSegment, shard: int
    ) -> tuple[ShardRecord, str] | None:
        """The record that the files of a shard had, if no row failed (the reasons stand nowhere else)."""
        group = group_key(features.record, part.name)
        contents = {name: self._restorer.read(f"{group}/{_key(name, shard)}") for name in _FILES}
        left = salvage(self._files, features, part, shard, None)
        if None in contents.values() or (left.status == RowStatus.FAILED).any():
            return None
        digests = {name: blake3(data).hexdigest() for name, data in contents.items() if data is not None}
        valid = int((left.status == RowStatus.VALID).sum())
        return ShardRecord(shard=shard, rows=len(left.status), valid=valid, digests=digests), "the shard's files"

    # --- one shard -------------------------------------------------------------------------------------------------

    def _shard(
        self, features: FeatureSet, part: VectorSegment, shard: int, record: ShardRecord | None
    ) -> Salvage | None:
        """Put the files of a shard back; what is left of it if that cannot be."""
        group = group_key(features.record, part.name)
        digests = dict.fromkeys(_FILES, "") if record is None else record.digests
        damaged = set()
        for name in _FILES:
            data = self._restorer.read(f"{group}/{_key(name, shard)}")
            if data is None or blake3(data).hexdigest() != digests[name]:
                damaged.add(name)
        damaged = {name for name in damaged if not self._from_copy(f"{group}/{_key(name, shard)}", digests[name])}
        if not damaged:
            return None
        left = salvage(self._files, features, part, shard, record)
        for source in self._sources:
            left.take(source, features)
        if not len(left.lacking) and self._rebuilt(left, group, digests, damaged):
            return None
        return left

    def _from_copy(self, key: str, digest: str) -> bool:
        return self._restorer.matching(key, digest, [("second copy", lambda: self._restorer.from_copy(key))])

    def _rebuilt(self, left: Salvage, group: str, digests: dict[str, str], damaged: set[str]) -> bool:
        """Put the damaged files of a shard back if its rows give their exact bytes."""
        part = left.part
        pieces = {
            "features": encode_shard(left.features, part.chunk_rows, part.shard_rows),
            "status": encode_chunk(left.status, part.shard_rows),
            "input_digest": encode_chunk(left.digests, part.shard_rows),
        }
        made = {name: b"".join(pieces[name]) for name in damaged}
        if any(blake3(data).hexdigest() != digests[name] for name, data in made.items()):
            return False
        origin = ", ".join(["what is left of the shard", *left.sources])
        for name, data in made.items():
            self._restorer.put(f"{group}/{_key(name, left.shard)}", data, origin)
        return True


def _key(name: str, shard: int) -> str:
    return chunk_key(name, shard, 1 if name == "status" else 2)
