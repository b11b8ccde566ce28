"""Filling a segment: shards published create-only by any number of workers, then sealed and committed by any of them.

    plan ──▶ publish(shard) × n ──▶ commit

A shard is three files (features, input digests, status) and a sidecar whose existence completes it. The first to publish a
file wins. A late twin adopts what is published instead of its own, and status follows from the published features (a row
without a feature is all NaN), so that a shard left half published by a worker that died is finished consistently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import AlignmentError, ConflictError, IncompleteError, NonFiniteError, sample_of
from featstore.progress import Progress
from featstore.spaces import Space
from featstore.store.dataset import Dataset
from featstore.store.digest_index import DIGEST_BYTES
from featstore.store.features import RowStatus, features_log, plan_key
from featstore.store.files import Files
from featstore.store.heartbeats import Writer, beat, place_time, writers
from featstore.store.records import (
    FeatureSetVersion,
    Plan,
    RowFailure,
    ShardRecord,
    VectorSegment,
    dump,
    fetch_all,
    fetch_if_there,
)
from featstore.store.rows import rows_log
from featstore.store.sealing import digest_of, seal_segment, segment_key_of
from featstore.store.shard_bytes import ShardBytes
from featstore.store.zarr_format import CRC_BYTES, chunk_key, decode_chunk, encode_chunk, index_bytes

__all__ = ["FeatureJob"]

# a twin's features this close to the published ones came from the same input, so its digest holds for them too
_SAME_FEATURE = 1e-2


@dataclass(frozen=True)
class FeatureJob:
    """One planned segment of a feature set. Small and picklable: hand it to worker processes as it is."""

    files: Files
    plan: Plan

    @classmethod
    def planned(cls, files: Files, plan: Plan) -> FeatureJob:
        """The job of a plan, published create-only: whoever plans the same segment later gets the first plan."""
        key = f"{plan_key(plan.dataset, plan.name, plan.segment)}/plan.json"
        while not files.put_new(key, [dump(plan)]):
            found = fetch_if_there(files, Plan, key)
            if found is not None:  # else it was cleaned up since, and the name is free again
                plan = found
                break
        job = cls(files, plan)
        job.announce(now=True)
        return job

    @property
    def name(self) -> str:
        """`DATASET/NAME`."""
        return f"{self.plan.dataset}/{self.plan.name}"

    @property
    def start(self) -> int:
        """First dataset row."""
        return self.plan.start

    @property
    def stop(self) -> int:
        """One past the last dataset row."""
        return self.plan.stop

    @property
    def shard_rows(self) -> int:
        """Rows of a shard (the last may be shorter)."""
        return self.plan.shard_rows

    @property
    def n_shards(self) -> int:
        """How many shards the segment has."""
        return -(-(self.stop - self.start) // self.shard_rows)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype."""
        return np.dtype(self.plan.dtype)

    @property
    def width(self) -> int:
        """Components of a row."""
        return self.plan.space.width

    @property
    def space(self) -> Space:
        """Space of the features."""
        return self.plan.space

    def pending(self) -> list[int]:
        """Shards that nobody has completed yet."""
        done = set(self.files.names(f"{self._plan_key}/shards"))
        return [number for number in range(self.n_shards) if f"{number}.json" not in done]

    def is_done(self, shard: int) -> bool:
        """Whether somebody has completed a shard."""
        return self.files.exists(f"{self._plan_key}/shards/{shard}.json")

    def failures(self, shards: Sequence[int]) -> list[RowFailure]:
        """What failed in shards that somebody has completed."""
        return [failure for record in self._records(shards) for failure in record.failures]

    def others(self) -> list[Writer]:
        """Other processes at work on this plan; shards are shared with them."""
        return [writer for writer in writers(self.files, self._plan_key, now=place_time(self.files)) if not writer.here]

    def tell_of_others(self, progress: Progress) -> None:
        """Let the user know who else fills the same plan."""
        for writer in self.others():
            progress.note(f"{self.name} is being filled by {writer} too; the work is shared shard by shard")

    def announce(self, *, now: bool = False) -> None:
        """Report that this process is at work on the plan, if it did not lately.

        Raises:
            ConflictError: the plan was cleaned up meanwhile.
        """
        # whoever cleans up takes the plan first and looks for heartbeats then: one of the two sees the other
        if beat(self.files, self._plan_key, now=now) and not self.files.exists(f"{self._plan_key}/plan.json"):
            raise ConflictError(
                f"the unfinished shards of {self.name} were cleaned up, because nobody had worked on them for long",
                hint="run the same command again to begin anew",
            )

    def shard_range(self, shard: int) -> tuple[int, int]:
        """Dataset rows [start, stop) of a shard."""
        first = self.start + shard * self.shard_rows
        return first, min(self.stop, first + self.shard_rows)

    def publish(
        self,
        shard: int,
        features: NDArray[Any],
        *,
        status: NDArray[np.uint8] | None = None,
        digests: NDArray[np.uint8] | None = None,
        failures: Sequence[RowFailure] = (),
    ) -> bool:
        """Publish one shard durably; False if another worker had completed it already (its bytes stay).

        Args:
            shard: Number of the shard.
            features: [n, D] for the n rows of the shard, floating point, finite where status is valid.
            status: RowStatus of each row; None means all valid.
            digests: 128-bit blake3 of each row's input, uint8 [n, 16]; None (or zero) where unknown.
            failures: Why rows failed.

        Raises:
            AlignmentError: a shape that does not fit the shard.
            NonFiniteError: NaN, infinity or overflow of the stored dtype in a valid row.
        """
        first, stop = self.shard_range(shard)
        rows = stop - first
        self.announce()
        if self.is_done(shard):
            return False
        if features.shape != (rows, self.width):
            raise AlignmentError(f"shard {shard} of {self.name} needs shape {(rows, self.width)}, got {features.shape}")
        status = np.full(rows, RowStatus.VALID, dtype=np.uint8) if status is None else status.astype(np.uint8)
        digests = np.zeros((rows, DIGEST_BYTES), dtype=np.uint8) if digests is None else digests
        if status.shape != (rows,) or digests.shape != (rows, DIGEST_BYTES):
            raise AlignmentError(
                f"shard {shard} of {self.name}: status {status.shape} or digests {digests.shape} do not fit"
            )

        key = chunk_key(f"{self._segment_key}/features", shard, 2)
        made = ShardBytes(features, status == RowStatus.VALID, self.dtype, self.plan.chunk_rows, self.shard_rows)
        try:
            first_to_publish = self.files.put_new(key, made.pieces())
        except FloatingPointError:
            raise self._not_finite(features, status, first) from None
        features_digest = made.digest
        if not first_to_publish:
            stored, features_digest = self._published_features(key)
            seen = status
            status, digests = _adopt(stored[:rows], made.rows(), status, digests)
            lost = first + np.flatnonzero((seen == RowStatus.VALID) & (status == RowStatus.FAILED))
            failures = [*failures, *self._lost(lost)]
        failed = [failure for failure in failures if status[failure.row - first] == RowStatus.FAILED]
        digests_digest = self._put_rows(chunk_key("input_digest", shard, 2), digests)
        status_digest = self._put_rows(chunk_key("status", shard), status)
        record = ShardRecord(
            shard=shard,
            rows=rows,
            valid=int((status == RowStatus.VALID).sum()),
            digests={"features": features_digest, "input_digest": digests_digest, "status": status_digest},
            failures=tuple(failed),
        )
        return self.files.put_new(f"{self._plan_key}/shards/{shard}.json", [dump(record)])

    def published(self, shard: int) -> NDArray[Any]:
        """The features of a shard that somebody has completed, [n, D]; checksums verified."""
        first, stop = self.shard_range(shard)
        return self._published_features(chunk_key(f"{self._segment_key}/features", shard, 2))[0][: stop - first]

    def commit(self, provenance: dict[str, Any]) -> FeatureSetVersion:
        """Seal the segment and append it to the set's versions; finding it there already is success.

        Raises:
            IncompleteError: shards are still pending.
            ConflictError: the set meanwhile got other rows in the place of these.
        """
        segment = self.seal()
        log = features_log(self.files, self.plan.dataset, self.plan.name)

        def build(newest: FeatureSetVersion | None, number: int) -> FeatureSetVersion | None:
            if newest is not None and segment in newest.segments:
                return None
            if (newest.rows if newest else 0) != self.start or (
                newest and (newest.space.digest, newest.layout) != (self.space.digest, self.plan.layout)
            ):
                raise ConflictError(
                    f"{self.name} got other rows while this job ran",
                    hint="run the same command again to add what is missing",
                )
            return FeatureSetVersion(
                dataset=self.plan.dataset,
                name=self.plan.name,
                number=number,
                parent=newest.number if newest else None,
                layout=self.plan.layout,
                rows=self.stop,
                dtype=self.plan.dtype,
                space=self.space,
                segments=(*(newest.segments if newest else ()), segment),
                damaged=newest.damaged if newest else (),
                provenance=provenance,
            )

        return log.commit(build)

    def seal(self) -> VectorSegment:
        """Write the segment's metadata, last of all, and describe it for a version.

        Raises:
            IncompleteError: shards are still pending.
            ConflictError: the plan was cleaned up meanwhile.
        """
        self.announce(now=True)
        pending = self.pending()
        if pending:
            raise IncompleteError(
                f"{self.name} lacks {len(pending)} of {self.n_shards} shards",
                hint="run the same command again to finish them",
            )
        return seal_segment(self.files, self.plan, self._records(range(self.n_shards)))

    @property
    def _plan_key(self) -> str:
        return plan_key(self.plan.dataset, self.plan.name, self.plan.segment)

    @property
    def _segment_key(self) -> str:
        return segment_key_of(self.plan)

    def _records(self, shards: Sequence[int]) -> list[ShardRecord]:
        return fetch_all(self.files, ShardRecord, [f"{self._plan_key}/shards/{shard}.json" for shard in shards])

    def _not_finite(self, features: NDArray[Any], status: NDArray[np.uint8], first: int) -> NonFiniteError:
        with np.errstate(over="ignore"):
            finite = np.isfinite(features.astype(self.dtype)).all(axis=1)
        bad = np.flatnonzero((status == RowStatus.VALID) & ~finite)
        ids = sample_of(self._ids(first + bad[:5]), total=len(bad))
        if np.isfinite(features[bad]).all():
            return NonFiniteError(
                f"{len(bad)} rows of {self.name} do not fit {self.dtype.name}: {ids}",
                hint="store wider numbers with --dtype float32",
            )
        return NonFiniteError(
            f"{len(bad)} rows of {self.name} hold NaN or infinity: {ids}",
            hint="look at these inputs; remove them, or repair what produced them",
        )

    def _lost(self, rows: NDArray[np.int64]) -> list[RowFailure]:
        """Ledger entries of rows that this worker could use, and the one whose features were published could not."""
        error = "the worker that published this shard's features could not use it, and stopped before it said why"
        ids = self._ids(rows) if len(rows) else []
        return [
            RowFailure(row=row, id=id_, stage="publish", error=error)
            for row, id_ in zip(rows.tolist(), ids, strict=True)
        ]

    def _ids(self, rows: NDArray[np.int64]) -> list[str]:
        record = rows_log(self.files, self.plan.dataset).read(self.plan.dataset_version)
        return Dataset(self.files, record).ids.take(rows)

    def _published_features(self, key: str) -> tuple[NDArray[Any], str]:
        """The features that another worker published first, and their digest."""
        data = self.files.view(key)
        rows_bytes = len(data) - index_bytes(self.plan.chunk_rows, self.shard_rows)
        size = self.plan.chunk_rows * self.width * self.dtype.itemsize + CRC_BYTES
        where = self.files.where(key)
        parts = [decode_chunk(data[at : at + size], self.dtype, where=where) for at in range(0, rows_bytes, size)]
        return np.concatenate(parts).reshape(-1, self.width), blake3(data).hexdigest()

    def _put_rows(self, chunk: str, values: NDArray[np.uint8]) -> str:
        """Publish one chunk of a row array, taking over the caller's array from what was there first."""
        key = f"{self._segment_key}/{chunk}"
        pieces = encode_chunk(values, self.shard_rows)
        if self.files.put_new(key, pieces):
            return digest_of(pieces)
        data = self.files.get(key)
        published = decode_chunk(data, np.dtype("u1"), where=self.files.where(key))
        values[:] = published.reshape(self.shard_rows, *values.shape[1:])[: len(values)]
        return digest_of([data])


def _adopt(
    stored: NDArray[Any], own: NDArray[Any], status: NDArray[np.uint8], digests: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Status and digests that are true of the stored features, from what this worker saw of the same rows."""
    there = ~np.isnan(stored).any(axis=1)
    with np.errstate(invalid="ignore"):
        near = np.abs(stored.astype(np.float64) - own).max(axis=1) <= _SAME_FEATURE * np.abs(stored).max(axis=1)
    # a digest is true of a row when both workers saw the same of it: the same feature, or both a failure
    agreed = np.where(there, near, status == RowStatus.FAILED)
    status = np.where(there, RowStatus.VALID, np.where(status == RowStatus.VALID, RowStatus.FAILED, status))
    return status.astype(np.uint8), np.where(agreed[:, None], digests, np.uint8(0))
