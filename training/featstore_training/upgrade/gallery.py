"""Writing a gallery as a new version of a set: base rows, some of them replaced by new features.

N rows, D width.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import AlignmentError, AlreadyExistsError, SpaceMismatchError, UsageError
from featstore.progress import SILENT, Progress
from featstore.spaces import Space, comparable, difference
from featstore.store import (
    FeatureJob,
    FeatureSet,
    RowStatus,
    SetRef,
    Store,
    commit_replacement,
    parse_set,
    plan_replacement,
    publisher,
)
from featstore_training.upgrade.base_rows import BaseRows
from featstore_training.upgrade.new_rows import NewRows

__all__ = ["MADE_BY", "Written", "check_parts", "gallery_ref", "write_gallery"]

MADE_BY = "made by"
_OURS = ("backfill", "upgrade")


@dataclass(frozen=True, slots=True)
class Written:
    """A gallery that was written.

    Attributes:
        features: The set at its new version.
        replaced: Rows that have their new feature.
        bytes_written: Bytes of features that this call published; rows that an earlier version holds are listed again.
        cached: The newest version was this very gallery already.
    """

    features: FeatureSet
    replaced: int
    bytes_written: int
    cached: bool


def gallery_ref(store: Store, target: str, base: FeatureSet) -> SetRef:
    """What a gallery may be called.

    Raises:
        UsageError: it names a version or another dataset.
        AlreadyExistsError: there is such a set, and no backfill or upgrade made it.
    """
    ref = parse_set(target)
    if ref.version is not None:
        raise UsageError(f"'{target}' names a version", hint=f"write {ref.key}; versions are numbered by the store")
    if ref.dataset != base.dataset.name:
        raise UsageError(
            f"{target} cannot hold rows of dataset {base.dataset.name}", hint=f"write {base.dataset.name}/{ref.name}"
        )
    if store.has_features(target):
        made_by = store.features(target).record.provenance.get(MADE_BY)
        if made_by not in _OURS:
            raise AlreadyExistsError(
                f"{target} exists, and no backfill or upgrade made it; its rows stay what they are",
                hint=f"name a set for the gallery that is served, such as {base.dataset.name}/gallery",
            )
    return ref


def check_parts(base: BaseRows, new: NewRows) -> None:
    """Raise unless rows of both may stand in one gallery.

    Raises:
        AlignmentError: their widths differ.
        SpaceMismatchError: nothing declares their spaces comparable.
    """
    hint = "bring the gallery into the new space first: featstore train --loss fct, then give its run with --map (or apply it)"
    if base.space.width != new.space.width:
        raise AlignmentError(
            f"{base.features.ref} has rows of width {base.space.width} and {new.name} of width {new.space.width}: "
            "one index holds rows of one width",
            hint=hint,
        )
    if not comparable(base.space, new.space):
        fields = ", ".join(field.field for field in difference(base.space, new.space))
        raise SpaceMismatchError(
            f"{base.features.ref} and {new.name} lie in spaces that nothing declares comparable ({fields} differ): "
            "queries could not be compared with both kinds of rows",
            hint=hint,
        )


def write_gallery(
    store: Store,
    target: SetRef,
    base: BaseRows,
    provenance: dict[str, Any],
    *,
    new: NewRows | None = None,
    chosen: NDArray[np.bool_] | None = None,
    progress: Progress = SILENT,
) -> Written:
    """Write base rows, chosen ones replaced by new features, as the next version of a set.

    The same call after a crash does the shards that are pending; any number of processes share them. A chosen row whose
    image cannot be read keeps its base feature.

    Args:
        store: The store.
        target: The set; see `gallery_ref`.
        base: What the gallery is.
        provenance: What the version says of itself.
        new: Where chosen rows get their features from.
        chosen: Which rows, bool [N]; all of them are valid in the base, and `new` has them.
        progress: Told of rows.
    """
    chosen = np.zeros(base.rows, bool) if chosen is None or new is None else chosen
    parts = _parts(base, new, chosen)
    space = parts[0] if len(parts) == 1 else Space.mixed(parts)
    dtypes = [base.dtype] if new is None or not chosen.any() else [base.dtype, new.dtype]
    source = (
        f"{base.source} with {new.source if new else 'nothing'} {blake3(np.packbits(chosen).tobytes()).hexdigest()}"
    )
    before = store.features(target.key) if store.has_features(target.key) else None
    job = plan_replacement(
        store,
        base.features.dataset,
        target.name,
        space,
        np.result_type(*dtypes),
        rows=base.rows,
        source=source,
    )
    row_bytes = job.width * job.dtype.itemsize
    written = row_bytes * sum(stop - start for start, stop in map(job.shard_range, job.pending()))
    status = _fill(job, base, new, chosen, progress)
    valid = status == RowStatus.VALID
    replaced = chosen if new is None or new.sure else _taken(job, base, chosen)
    part = _part_of_rows(base, parts, new, replaced)
    mixed = {"parts": parts, "part": part, "valid": valid} if len(parts) > 1 else {}
    counted = {"rows backfilled": int(replaced.sum()), **provenance} if new is not None else provenance
    made = commit_replacement(store, job, counted, **mixed)
    features = store.features(f"{target.key}@{made.number}")
    return Written(features, int(replaced.sum()), written, before is not None and before.version == made.number)


def _parts(base: BaseRows, new: NewRows | None, chosen: NDArray[np.bool_]) -> tuple[Space, ...]:
    """The spaces that rows of the gallery lie in, those of the base first."""
    own = base.features.parts if base.space.is_mixed else (base.space,)
    if new is None or not chosen.any():
        return own
    if chosen[base.outcomes()[0] == RowStatus.VALID].all() and new.sure:
        return (new.space,)
    return tuple({space.digest: space for space in (*own, new.space)}.values())


def _part_of_rows(
    base: BaseRows, parts: tuple[Space, ...], new: NewRows | None, replaced: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    part = base.features.part_of_rows() if base.space.is_mixed else np.zeros(base.rows, np.uint8)
    if new is not None and len(parts) > 1:
        place = next(place for place, space in enumerate(parts) if space.digest == new.space.digest)
        part = np.where(replaced, np.uint8(place), part)
    return part


def _fill(
    job: FeatureJob, base: BaseRows, new: NewRows | None, chosen: NDArray[np.bool_], progress: Progress
) -> NDArray[np.uint8]:
    """Publish the shards that are pending; the status of all rows."""
    status, failures = base.outcomes()
    pending = job.pending()
    todo = sum(stop - start for start, stop in map(job.shard_range, pending))
    progress.start(f"writing {job.name}", job.stop, "rows", done=job.stop - todo)
    job.tell_of_others(progress)
    known = base.features.input_digests() if pending else np.zeros((0, 16), np.uint8)
    with publisher(job, progress) as publish:
        for shard in pending:
            start, stop = job.shard_range(shard)
            block = base.read(start, stop).astype(job.dtype)
            digests = known[start:stop].copy()
            rows = np.flatnonzero(chosen[start:stop])
            if new is not None and len(rows):
                fresh, seen = np.empty((len(rows), job.width), new.dtype), np.zeros((len(rows), 16), np.uint8)
                had = new.take(start + rows, fresh, seen)
                block[rows[had]] = fresh[had]
                digests[rows[had]] = seen[had]
            first, last = (bisect_left(failures, row, key=lambda failure: failure.row) for row in (start, stop))
            publish(shard, block, status=status[start:stop], digests=digests, failures=failures[first:last])
    return status


def _taken(job: FeatureJob, base: BaseRows, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which chosen rows hold another feature than before: images of the others could not be read.

    Told from what was published, because another process may have read them.
    """
    taken = np.zeros(len(chosen), bool)
    for shard in range(job.n_shards):
        start, stop = job.shard_range(shard)
        published, before = job.published(shard), base.read(start, stop).astype(job.dtype)
        taken[start:stop] = chosen[start:stop] & (published != before).any(axis=1)
    return taken
