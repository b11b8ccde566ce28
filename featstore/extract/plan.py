"""Before the work: whether the encoders fit, how fast they are, and who fills which shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.errors import BadInputError, UsageError, sample_of
from featstore.extract.inputs import prepare, read_inputs
from featstore.extract.isolate import encode_isolated
from featstore.extract.outputs import Output
from featstore.extract.process import single_thread
from featstore.extract.stages import Stages
from featstore.ranks import Rank
from featstore.sources import Place, Source
from featstore.spaces import require_same
from featstore.store import Dataset, FeatureJob, Store, plan_shard_rows

__all__ = ["Division", "Sample", "Unit", "check_spaces", "division_of", "plan_jobs", "probe"]

_CHECKED_IMAGES = 8  # of those: checking encodes every image twice


@dataclass(frozen=True)
class Unit:
    """Rows [start, stop) that are one shard of each of some jobs: read and decoded once for all of them.

    Attributes:
        start: First dataset row.
        stop: One past the last.
        shards: (number of the job, shard) for every job with such a shard.
    """

    start: int
    stop: int
    shards: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Sample:
    """Images that were encoded before the work, spread over those to come.

    Attributes:
        images: How many were tried.
        failed: Among them, those that no encoder can use.
        stages: Where the time went.
        digests: Of their bytes, uint8 [images, 16].
    """

    images: int
    failed: int
    stages: Stages
    digests: NDArray[np.uint8]

    @property
    def rate(self) -> float:
        """Images a second of one thread, for all outputs."""
        return self.images / self.stages.total


def check_spaces(store: Store, dataset: str, outputs: Mapping[str, Output]) -> None:
    """Refuse encoders of another space than their sets, before any image is read.

    Raises:
        SpaceMismatchError: naming the field.
    """
    for name, output in outputs.items():
        key = f"{dataset}/{name}"
        if store.has_features(key):
            require_same(
                store.features(key).space,
                output.space,
                what=f"{key} exists",
                hint="write to another name, or use the encoder (and the view settings) that made this set",
            )


def probe(
    source: Source, coming: Sequence[tuple[str, Place]], outputs: Mapping[str, Output], *, must_work: bool
) -> Sample | None:
    """Encode a few images spread over the source: check the encoders, measure their speed.

    Args:
        source: Where the images are.
        coming: Ids and places of some images to come, spread over the source.
        outputs: What is made of every image; their encoders are checked.
        must_work: Whether it is an error that none of the images can be used.

    Returns:
        What became of them in one thread; None if no image can be used.

    Raises:
        BadInputError: none can, and `must_work`.
        UsageError, NonFiniteError: an encoder does not pass its check.
    """
    chosen = [id_ for id_, _ in coming]
    everything = range(len(chosen))
    stages = Stages()
    with single_thread():
        inputs = read_inputs(source, coming, stages)
        prepared = prepare(inputs, {output.preparation: everything for output in outputs.values()}, stages)
        usable = 0
        for output in outputs.values():
            encoder = output.encoder
            with stages.time("encode"):  # warm already: an encoder has seen one image when it is made
                positions, arrays = prepared.arrays(output.preparation, everything)
                taken, features, refused = encode_isolated(encoder, range(len(positions)), arrays, output.room)
            if refused and not taken:
                raise UsageError(
                    f"the encoder {encoder.space.name} fails on every one of {len(refused)} images: {refused[0].error}",
                    hint="call it on one preprocessed image to see where",
                )
            if taken and output.recipe is None:
                arrays = arrays[taken]
                finite = np.isfinite(features).all(axis=1)
                usable_images = arrays[finite] if finite.any() else arrays
                encoder.check(usable_images[: min(_CHECKED_IMAGES, output.room.images or _CHECKED_IMAGES)])
            usable = max(usable, len(taken))
    if usable:
        return Sample(len(chosen), len(chosen) - usable, stages, inputs.digests)
    if must_work:
        reasons = [f"{chosen[i]}: {failure.error}" for i, failure in sorted(prepared.failures.items())]
        raise BadInputError(
            f"none of {len(chosen)} images tried can be used, so nothing was written; {sample_of(reasons, 3)}",
            hint="check the folder; a dataset needs at least one good image among those tried",
        )
    return None


def plan_jobs(
    store: Store,
    dataset: Dataset,
    outputs: Mapping[str, Output],
    *,
    dtype: str | None,
    rate: float | None,
    workers: int,
) -> dict[str, FeatureJob]:
    """A job for each set that does not cover the dataset yet, with the same shards wherever the store leaves a choice."""
    missing = {}
    for name in outputs:
        key = f"{dataset.name}/{name}"
        missing[name] = dataset.rows - (store.features(key).rows if store.has_features(key) else 0)
    types = {name: np.dtype(dtype) if dtype else output.encoder.dtype for name, output in outputs.items()}
    row_bytes = max(output.space.width * types[name].itemsize for name, output in outputs.items())
    shard_rows = plan_shard_rows(max(1, *missing.values()), row_bytes, rate, workers)
    jobs: dict[str, FeatureJob] = {}
    for name, output in outputs.items():
        job = store.plan_features(dataset, name, output.space, types[name], shard_rows=shard_rows)
        if job is not None:
            jobs[name] = job
            shard_rows = job.shard_rows  # that of an earlier plan, when this run continues one
    return jobs


class Division(NamedTuple):
    """The part of a rank.

    Attributes:
        units: The work that is left, in row order.
        finished: Rows of its units that are done already.
        failed: How many of those failed for at least one output.
    """

    units: list[Unit]
    finished: int
    failed: int


def division_of(jobs: list[FeatureJob], rank: Rank) -> Division:
    """What a rank has to do, and what is done of it."""
    together: dict[tuple[int, int], list[tuple[int, int]]] = {}
    pending: set[tuple[int, int]] = set()
    for number, job in enumerate(jobs):
        left = set(job.pending())
        for shard in range(job.n_shards):
            span = job.shard_range(shard)
            together.setdefault(span, []).append((number, shard))
            if shard in left:
                pending.add(span)
    # counted among all, finished or not, so that ranks that begin at different times divide them alike
    mine = [span for number, span in enumerate(sorted(together)) if rank.owns(number)]
    done = [span for span in mine if span not in pending]
    shards: dict[int, list[int]] = {}
    for number, shard in (entry for span in done for entry in together[span]):
        shards.setdefault(number, []).append(shard)
    failed = {failure.row for number, chosen in shards.items() for failure in jobs[number].failures(chosen)}
    units = [Unit(*span, tuple(together[span])) for span in mine if span in pending]
    return Division(units, sum(stop - start for start, stop in done), len(failed))
