"""Failed rows of a feature set once more: those that a source has now get their feature in a new version."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError
from featstore.store.features import FeatureSet, RowStatus, plan_key
from featstore.store.mending import replace_shards
from featstore.store.policies import ZeroRows, all_zero
from featstore.store.records import ShardRecord, fetch
from featstore.store.salvage import RowSource, Salvage, Wanted, salvage
from featstore.store.store import Store

__all__ = ["RetryReport", "retry_failed"]


@dataclass(frozen=True, slots=True)
class RetryReport:
    """What became of the failed rows of a feature set.

    Attributes:
        set: `DATASET/NAME@version`, the newest one now.
        tried: Rows that had failed.
        mended: Those among them that have a feature now.
        failed: Rows that still have none.
    """

    set: str
    tried: int
    mended: int
    failed: int


def retry_failed(store: Store, ref: str, source: RowSource, *, zero_rows: ZeroRows = "error") -> RetryReport:
    """Ask a source for the rows of a set that failed, whatever their inputs were then.

    Shards with a row that works now are written anew, with every other row as it was; earlier versions stay.

    Args:
        store: The store.
        ref: `DATASET/NAME`.
        source: Usually `featstore.extract.EncodeAgain`.
        zero_rows: Whether a feature that is zero throughout is still a failure.

    Raises:
        CorruptStoreError: a shard with failed rows is damaged; repair comes first.
        SpaceMismatchError: the source makes features of another space.
    """
    features = store.features(ref)
    changed: list[Salvage] = []
    valid: dict[tuple[str, int], int] = {}
    tried = mended = 0
    removed = set(features.dataset.removed_rows.tolist())
    for part in features.record.segments:
        for shard in part.shards:
            key = f"{plan_key(features.record.dataset, features.record.name, part.name)}/shards/{shard}.json"
            record = fetch(store.files, ShardRecord, key)
            valid[part.name, shard] = record.valid
            if not any(failure.row not in removed for failure in record.failures):
                continue
            left = salvage(store.files, features, part, shard, record)
            if len(left.lacking):
                raise CorruptStoreError(
                    f"shard {shard} of {features.name} is damaged", hint="`featstore repair` first, then the same again"
                )
            failed = [
                k for k in np.flatnonzero(left.status == RowStatus.FAILED).tolist() if left.first + k not in removed
            ]
            tried += len(failed)
            now = _mend(left, np.array(failed, dtype=np.int64), features, source, zero_rows)
            mended += now
            if now:
                changed.append(left)
    made = features
    if changed:
        replace_shards(store.files, features, changed, valid, dry_run=False, damaged=False)
        made = store.features(ref)
    return RetryReport(set=made.ref, tried=tried, mended=mended, failed=tried - mended)


def _mend(
    left: Salvage, failed: NDArray[np.int64], features: FeatureSet, source: RowSource, zero_rows: ZeroRows
) -> int:
    """Put what the source has now into a shard; how many rows that were."""
    # no digest: whatever the input is now, it is this row's
    wanted = Wanted(features, left.part, left.first + failed, np.zeros((len(failed), 16), dtype=np.uint8))
    out = np.full((len(failed), features.width), np.nan, dtype=features.dtype)
    found = source.fetch(wanted, out) & np.isfinite(out).all(axis=1)
    if zero_rows == "error":
        found &= ~all_zero(np.nan_to_num(out))
    at = failed[found]
    left.features[at], left.digests[at], left.status[at] = out[found], wanted.digests[found], RowStatus.VALID
    if left.record is not None:
        rows = set((left.first + at).tolist())
        still = tuple(failure for failure in left.record.failures if failure.row not in rows)
        left.record = left.record.model_copy(update={"failures": still})
    if len(at):
        left.sources[source.name] += len(at)
    return len(at)
