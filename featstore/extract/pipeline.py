"""One unit of work: the same rows of several feature sets, from the files to published shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.encoders import Encoder
from featstore.extract.inputs import Failure, prepare
from featstore.extract.isolate import encode_isolated
from featstore.extract.plan import Unit
from featstore.sources import Source
from featstore.store import Dataset, FeatureJob, RowFailure, RowStatus

__all__ = ["Tally", "run_unit"]


@dataclass(frozen=True)
class Tally:
    """How far a unit is: rows tried so far, rows among them that failed for at least one encoder, and one of those."""

    tried: int
    failed: int
    example: str = ""


@dataclass
class _Shard:
    """A shard in the making. Rows keep their position whatever fails, so that features never shift."""

    job: FeatureJob
    number: int
    encoder: Encoder
    features: NDArray[Any]
    status: NDArray[np.uint8]
    failures: list[RowFailure] = field(default_factory=list)

    def put(self, positions: list[int], features: NDArray[Any]) -> dict[int, Failure]:
        """Place features [len(positions), D]; those that are not finite become failures."""
        finite = np.isfinite(features).all(axis=1)
        at = np.asarray(positions, dtype=np.int64)
        self.features[at[finite]] = features[finite]
        self.status[at[finite]] = RowStatus.VALID
        return {int(k): Failure("encode", "the feature holds NaN or infinity") for k in at[~finite]}


def run_unit(
    unit: Unit,
    jobs: Sequence[FeatureJob],
    encoders: Sequence[Encoder],
    dataset: Dataset,
    source: Source,
    batch: int,
    on_batch: Callable[[Tally], None],
) -> None:
    """Fill and publish the shards of a unit that are still pending.

    Args:
        unit: Which rows, and which shard of which job.
        jobs: All jobs.
        encoders: The encoder of each job.
        dataset: Whose rows they are.
        source: Where the images are.
        batch: Images an encoder sees at once.
        on_batch: Called after each batch with the tally of the unit so far; may raise to abandon the unit.
    """
    shards = [
        _Shard(
            job=jobs[number],
            number=shard,
            encoder=encoders[number],
            features=np.zeros((unit.rows, encoders[number].width), dtype=encoders[number].dtype),
            status=np.full(unit.rows, RowStatus.FAILED, dtype=np.uint8),
        )
        for number, shard in unit.shards
        if shard in set(jobs[number].pending())
    ]
    if not shards:  # another worker or another run has done them meanwhile
        on_batch(Tally(unit.rows, 0))
        return
    digests = np.zeros((unit.rows, 16), dtype=np.uint8)
    preprocesses = list({shard.encoder.preprocess: None for shard in shards})
    failed: set[int] = set()
    for first in range(0, unit.rows, batch):
        ids = dataset.ids.take(range(unit.start + first, unit.start + min(first + batch, unit.rows)))
        prepared = prepare(source, ids, preprocesses)
        digests[first : first + len(ids)] = prepared.digests
        for shard in shards:
            positions, arrays = prepared.arrays(shard.encoder.preprocess)
            failures = prepared.failed(shard.encoder.preprocess)
            encoded, features, refused = encode_isolated(shard.encoder, positions, arrays)
            failures |= refused
            if encoded:
                not_finite = shard.put([first + k for k in encoded], features)
                failures |= {k - first: failure for k, failure in not_finite.items()}
            for k, failure in sorted(failures.items()):
                row = unit.start + first + k
                shard.failures.append(RowFailure(row=row, id=ids[k], stage=failure.stage, error=failure.error))
            failed.update(first + k for k in failures)
        on_batch(Tally(first + len(ids), len(failed), _example(shards)))
    for shard in shards:
        # the store may put published digests in place of ours, so each set gets its own copy
        shard.job.publish(
            shard.number, shard.features, status=shard.status, digests=digests.copy(), failures=shard.failures
        )


def _example(shards: Sequence[_Shard]) -> str:
    for shard in shards:
        if shard.failures:
            last = shard.failures[-1]
            return f"{last.id} ({last.stage}: {last.error})"
    return ""
