"""Mending a feature set whose shards are damaged: what is known of their rows goes into a new segment.

A new version lists it in place of the damaged shards, whose old segment stays marked damaged.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featstore.errors import ConflictError
from featstore.store.features import FeatureSet, RowStatus, features_log
from featstore.store.files import Files
from featstore.store.job import FeatureJob
from featstore.store.plans import plan_segment
from featstore.store.records import Damage, FeatureSetVersion, RowFailure, VectorSegment
from featstore.store.salvage import Salvage

__all__ = ["Replaced", "replace_shards"]

_STAGE = "repair"


@dataclass(frozen=True, slots=True)
class Replaced:
    """Rows of a feature set that lie in a new segment now.

    Attributes:
        set: `DATASET/NAME@version`, the new version.
        start: First dataset row.
        stop: One past the last.
        sources: How many rows came from where; the others were sound.
        given_up: Rows that nothing had, and that count as failed now.
        digests_lost: Rows whose input digest nobody knows any more.
    """

    set: str
    start: int
    stop: int
    sources: dict[str, int]
    given_up: int
    digests_lost: int


def replace_shards(
    files: Files,
    features: FeatureSet,
    broken: list[Salvage],
    valid: dict[tuple[str, int], int],
    *,
    dry_run: bool,
    damaged: bool = True,
) -> list[Replaced]:
    """Commit new segments in the place of broken shards; rows that are lacking count as failed from then on.

    Args:
        files: The store's files.
        features: The set.
        broken: What is known of the shards, in row order.
        valid: Rows with a feature of every listed shard, by segment and shard.
        dry_run: Write nothing.
        damaged: Whether the old shards are marked so; else rows that had failed have a feature now.

    Raises:
        ConflictError: the set got another version meanwhile that does not list the shards any more.
    """
    runs: list[list[Salvage]] = []
    for left in broken:
        last = runs[-1][-1] if runs else None
        if last is not None and last.part == left.part and last.shard + 1 == left.shard:
            runs[-1].append(left)
        else:
            runs.append([left])
    made = [(run, _fill(files, features, run, dry_run=dry_run)) for run in runs]
    version = features.version if dry_run else _commit(files, features, made, valid, damaged=damaged)
    any_known = any(part.indexed for part in features.record.segments)
    replaced = []
    for run, segment in made:
        lost = sum(int((~left.digests.any(axis=1) & (left.status == RowStatus.VALID)).sum()) for left in run)
        known = any_known or any(left.digests.any() for left in run)
        replaced.append(
            Replaced(
                set=f"{features.name}@{version}",
                start=segment.start,
                stop=segment.stop,
                sources=dict(sum((left.sources for left in run), Counter[str]())),
                given_up=sum(len(left.lacking) for left in run),
                digests_lost=lost if known else 0,
            )
        )
    return replaced


def _fill(files: Files, features: FeatureSet, run: list[Salvage], *, dry_run: bool) -> VectorSegment:
    """The segment of neighbouring shards; in a dry run only the rows that it would hold."""
    part = run[0].part
    start, stop = run[0].first, run[-1].first + len(run[-1].status)
    if dry_run:
        return part.model_copy(update={"start": start, "stop": stop})
    source = f"repair {uuid.uuid4().hex}"
    record = features.record
    plan = plan_segment(
        features.dataset,
        record.name,
        features.space,
        record.dtype,
        start=start,
        stop=stop,
        source=source,
        shard_rows=part.shard_rows,
    )
    job = FeatureJob.planned(files, plan)
    for number, left in enumerate(run):
        failures = list(left.record.failures) if left.record else []
        known = {failure.row for failure in failures}
        lost = (left.first + left.lacking).tolist()
        left.status[left.lacking] = RowStatus.FAILED
        forgotten = (left.first + np.flatnonzero(left.status == RowStatus.FAILED)).tolist()
        rows = [row for row in forgotten if row not in known]
        for row, id_ in zip(rows, features.dataset.ids.take(rows), strict=True):
            why = "the feature was damaged and nothing had it" if row in lost else "the reason was lost with its record"
            failures.append(RowFailure(row=row, id=id_, stage=_STAGE, error=why))
        job.publish(number, left.features, status=left.status, digests=left.digests, failures=failures)
    return job.seal()


def _commit(
    files: Files,
    features: FeatureSet,
    made: list[tuple[list[Salvage], VectorSegment]],
    valid: dict[tuple[str, int], int],
    *,
    damaged: bool,
) -> int:
    def build(newest: FeatureSetVersion | None, number: int) -> FeatureSetVersion:
        if newest is None or not {run[0].part for run, _ in made} <= set(newest.segments):
            raise ConflictError(f"{features.name} changed meanwhile", hint="run the same command again")
        segments: list[VectorSegment] = []
        for part in newest.segments:
            segments += _split(part, [entry for entry in made if entry[0][0].part == part], valid)
        replaced = [
            Damage(segment=run[0].part.name, start=segment.start, stop=segment.stop, replaced_by=segment.name)
            for run, segment in made
        ]
        return newest.successor(
            number,
            segments=tuple(segments),
            damaged=(*newest.damaged, *(replaced if damaged else ())),
            provenance={
                **newest.provenance,
                "repaired" if damaged else "retried": [entry.model_dump() for entry in replaced],
            },
        )

    return features_log(files, features.record.dataset, features.record.name).commit(build).number


def _split(
    part: VectorSegment,
    made: list[tuple[list[Salvage], VectorSegment]],
    valid: dict[tuple[str, int], int],
) -> Iterator[VectorSegment]:
    """A segment as the pieces that stay and the segments that replace the others, in row order."""
    first = part.shards.start

    def kept(stop: int) -> Iterator[VectorSegment]:
        if first < stop:
            start, end = part.shard_span(first)[0], part.shard_span(stop - 1)[1]
            count = sum(valid[part.name, shard] for shard in range(first, stop))
            changed = {"start": start, "stop": end, "offset": first * part.shard_rows, "valid": count}
            yield part.model_copy(update=changed)

    for run, segment in made:
        yield from kept(run[0].shard)
        yield segment
        first = run[-1].shard + 1
    yield from kept(part.shards.stop)
