"""One unit of work: the same rows of several feature sets, from the files to published shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.encoders import Preparation
from featstore.extract.inputs import Failure, prepare, read_inputs
from featstore.extract.isolate import encode_isolated
from featstore.extract.listing import Places
from featstore.extract.outputs import Output
from featstore.extract.plan import Unit
from featstore.extract.stages import Stages
from featstore.sources import Source
from featstore.store import DigestIndex, FeatureJob, RowFailure, RowStatus
from featstore.store.digest_index import DIGEST_BYTES
from featstore.store.policies import ZeroRows, all_zero

__all__ = ["Tally", "row_bytes", "run_unit"]


@dataclass(frozen=True)
class Tally:
    """How far a unit is.

    Attributes:
        tried: Rows so far.
        failed: Rows among them that failed for at least one output.
        example: One of those.
        copied: By number of the job and name of the set they came from, rows that were copied instead of encoded.
        spared: Rows that were copied for every output, so that they were not even decoded.
        stages: Where the time went.
        room: Images that memory was found to suffice for at once; None while it never ran out.
    """

    tried: int
    failed: int
    example: str = ""
    copied: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    spared: int = 0
    stages: Stages = field(default_factory=Stages)
    room: int | None = None


@dataclass
class _Shard:
    """A shard in the making. Rows keep their position whatever fails, so that features never shift."""

    job: FeatureJob
    job_number: int
    number: int
    output: Output
    index: DigestIndex | None
    features: NDArray[Any]
    status: NDArray[np.uint8]
    zero_rows: ZeroRows
    failures: list[RowFailure] = field(default_factory=list)
    copied: Counter[str] = field(default_factory=Counter)

    def copy(self, first: int, digests: NDArray[np.uint8]) -> set[int]:
        """Take what the store has for the inputs of rows from `first` on; positions among them that have to be encoded."""
        if not self.index:
            return set(range(len(digests)))
        copied = self.index.copy(digests, self.job.dtype, emitted=self.output.encoder.dtype)
        found = np.flatnonzero(copied.found & self._wanted(copied.features))
        self.features[first + found] = copied.features[found]
        self.status[first + found] = RowStatus.VALID
        self.copied.update(str(copied.sources[k]) for k in found.tolist())
        return set(range(len(digests))) - set(found.tolist())

    def put(self, positions: list[int], features: NDArray[Any]) -> dict[int, Failure]:
        """Place features [len(positions), D]; those that are not finite become failures, those that are zero by policy."""
        finite = np.isfinite(features).all(axis=1)
        wanted = self._wanted(features)
        at = np.asarray(positions, dtype=np.int64)
        good = finite & wanted
        self.features[at[good]] = features[good]
        self.status[at[good]] = RowStatus.VALID
        failures = {int(k): Failure("encode", "the feature holds NaN or infinity") for k in at[~finite]}
        why = "the feature is zero throughout, so it has no direction to compare (--zero-rows keep stores it)"
        return failures | {int(k): Failure("encode", why) for k in at[~wanted]}

    def _wanted(self, features: NDArray[Any]) -> NDArray[np.bool_]:
        if self.zero_rows == "keep":
            return np.ones(len(features), dtype=bool)
        with np.errstate(over="ignore"):
            return ~all_zero(features.astype(self.job.dtype, copy=False))


def run_unit(
    unit: Unit,
    jobs: Sequence[FeatureJob],
    outputs: Sequence[Output],
    indexes: Sequence[DigestIndex | None],
    places: Places,
    source: Source,
    batch: int,
    zero_rows: ZeroRows,
    on_batch: Callable[[Tally], None],
) -> None:
    """Fill and publish the shards of a unit that are still pending.

    Every file is read and digested. Where the store has the feature of these bytes in an encoder's space already, in whatever
    dataset, it is copied; an image that every output has so is not decoded.

    Args:
        unit: Which rows, and which shard of which job.
        jobs: All jobs.
        outputs: The output of each job.
        indexes: The digest index of each job's space, None where nothing shall be copied.
        places: Ids of the dataset's rows, and where they lie in the source.
        source: Where the images are.
        batch: Images an encoder sees at once.
        zero_rows: Whether a feature that is zero throughout is a failure.
        on_batch: Called after each batch with the tally of the unit so far; may raise to abandon the unit.
    """
    shards = [
        _Shard(
            job=jobs[number],
            job_number=number,
            number=shard,
            output=outputs[number],
            index=indexes[number],
            features=np.zeros(
                (unit.rows, jobs[number].width), dtype=_wider(outputs[number].encoder.dtype, jobs[number].dtype)
            ),
            status=np.full(unit.rows, RowStatus.FAILED, dtype=np.uint8),
            zero_rows=zero_rows,
        )
        for number, shard in unit.shards
        if shard in set(jobs[number].pending())
    ]
    if not shards:  # another worker or another run has done them meanwhile
        on_batch(Tally(unit.rows, 0))
        return
    stages = Stages()
    digests = np.zeros((unit.rows, 16), dtype=np.uint8)
    failed: set[int] = set()
    spared = 0
    for first in range(0, unit.rows, batch):
        chosen = places.take(range(unit.start + first, unit.start + min(first + batch, unit.rows)))
        ids = [id_ for id_, _ in chosen]
        inputs = read_inputs(source, chosen, stages)
        digests[first : first + len(ids)] = inputs.digests
        lacking = [shard.copy(first, inputs.digests) for shard in shards]
        wanted: dict[Preparation, set[int]] = {}
        for shard, positions in zip(shards, lacking, strict=True):
            wanted.setdefault(shard.output.preparation, set()).update(positions)
        prepared = prepare(inputs, wanted, stages)
        for shard, positions in zip(shards, lacking, strict=True):
            failures = prepared.failed(shard.output.preparation, positions)
            with stages.time("encode"):
                usable, arrays = prepared.arrays(shard.output.preparation, positions)
                encoded, features, refused = encode_isolated(shard.output.encoder, usable, arrays, shard.output.room)
            failures |= refused
            if encoded:
                not_finite = shard.put([first + k for k in encoded], features)
                failures |= {k - first: failure for k, failure in not_finite.items()}
            for k, failure in sorted(failures.items()):
                row = unit.start + first + k
                shard.failures.append(RowFailure(row=row, id=ids[k], stage=failure.stage, error=failure.error))
            failed.update(first + k for k in failures)
        spared += len(ids) - len(set().union(*lacking))
        copied = {shard.job_number: dict(shard.copied) for shard in shards if shard.copied}
        rooms = [shard.output.room.images for shard in shards if shard.output.room.images is not None]
        tally = Tally(
            tried=first + len(ids),
            failed=len(failed),
            example=_example(shards),
            copied=copied,
            spared=spared,
            stages=stages.copy(),
            room=min(rooms, default=None),
        )
        on_batch(tally)
    for shard in shards:
        # the store may put published digests in place of ours, so each set gets its own copy
        with stages.time("write"):
            shard.job.publish(
                shard.number, shard.features, status=shard.status, digests=digests.copy(), failures=shard.failures
            )
        stages.bytes_written += unit.rows * row_bytes(shard.job.width, shard.job.dtype)
    on_batch(replace(tally, stages=stages))


def row_bytes(width: int, dtype: np.dtype[Any]) -> int:
    """What a row of a set takes on disk: the feature, the digest of its input, its status."""
    return width * dtype.itemsize + DIGEST_BYTES + 1


def _wider(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    return one if one.itemsize >= other.itemsize else other


def _example(shards: Sequence[_Shard]) -> str:
    for shard in shards:
        if shard.failures:
            last = shard.failures[-1]
            return f"{last.id} ({last.stage}: {last.error})"
    return ""
