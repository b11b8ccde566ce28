"""Before the work: what is in the source, what is new in it, how fast the encoders are, and who fills which shard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import AlignmentError, AlreadyExistsError, BadInputError, UsageError, sample_of
from featstore.extract.inputs import prepare, read_inputs
from featstore.extract.isolate import encode_isolated
from featstore.extract.outputs import Output
from featstore.extract.process import single_thread
from featstore.progress import Progress
from featstore.sources import Item, Skipped, Source
from featstore.spaces import require_same
from featstore.store import Categories, Dataset, FeatureJob, NewRows, Store, plan_shard_rows

__all__ = ["Listing", "Unit", "add_rows", "check_spaces", "list_source", "plan_jobs", "probe", "units_of"]

_PROBE_IMAGES = 32
_CHECKED_IMAGES = 8  # of those: checking encodes every image twice
_SKIPPED_RECORDED = 100
_COMMIT_TRIES = 5


@dataclass(frozen=True)
class Listing:
    """A source compared with the dataset made from it.

    Attributes:
        items: Every image of the source.
        skipped: What is not read, and why.
        new: Images the dataset does not have.
        changed: Images whose size or time differs from the dataset's.
        vanished: Rows of the dataset that are not in the source.
    """

    items: list[Item]
    skipped: list[Skipped]
    new: list[Item]
    changed: int
    vanished: int


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


def list_source(store: Store, source: Source, name: str) -> Listing:
    """List a source and compare it with the dataset, if that exists.

    Raises:
        BadInputError: no images.
        AlignmentError: the dataset was made from something else.
    """
    skipped: list[Skipped] = []
    items = list(source.rows(skipped.append))
    if not store.has_dataset(name):
        return Listing(items, skipped, items, 0, 0)
    dataset = store.dataset(name)
    rows = dataset.ids.rows_of([item.id for item in items])
    new = [item for item, row in zip(items, rows, strict=True) if row < 0]
    known = rows >= 0
    changed = _changed(dataset, [item for item, row in zip(items, rows, strict=True) if row >= 0], rows[known])
    vanished = len(dataset.live_rows()) - int(known.sum())
    if dataset.root != source.root and (vanished or changed):
        # the same folder under another path has the same images; anything else must not pass for them
        origin = f"made from {dataset.root}" if dataset.root else "not made from a folder"
        raise AlignmentError(
            f"dataset {name} was {origin}, and {source.root} is not the same: "
            f"{vanished} of its {dataset.rows} images are not there, {changed} are other files",
            hint="give the folder it was made from, or choose another --dataset name",
        )
    return Listing(items, skipped, new, changed, vanished)


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


def probe(source: Source, ids: list[str], outputs: Mapping[str, Output], *, must_work: bool) -> float | None:
    """Encode a few images spread over the source: check the encoders, measure their speed.

    Args:
        source: Where the images are.
        ids: Of all images to come.
        outputs: What is made of every image; their encoders are checked.
        must_work: Whether it is an error that none of the images can be used.

    Returns:
        Images a second of one thread for all outputs; None if no image can be used.

    Raises:
        BadInputError: none can, and `must_work`.
        UsageError, NonFiniteError: an encoder does not pass its check.
    """
    chosen = [ids[k] for k in np.unique(np.linspace(0, len(ids) - 1, _PROBE_IMAGES).astype(int))]
    everything = range(len(chosen))
    with single_thread():
        began = time.perf_counter()
        inputs = read_inputs(source, chosen)
        prepared = prepare(inputs, {output.preparation: everything for output in outputs.values()})
        seconds = time.perf_counter() - began
        usable = 0
        for output in outputs.values():
            encoder = output.encoder
            positions, arrays = prepared.arrays(output.preparation, everything)
            began = time.perf_counter()  # warm already: an encoder has seen one image when it is made
            taken, features, refused = encode_isolated(encoder, range(len(positions)), arrays)
            seconds += time.perf_counter() - began
            if refused and not taken:
                raise UsageError(
                    f"the encoder {encoder.space.name} fails on every one of {len(refused)} images: {refused[0].error}",
                    hint="call it on one preprocessed image to see where",
                )
            if taken and output.recipe is None:
                arrays = arrays[taken]
                finite = np.isfinite(features).all(axis=1)
                encoder.check(arrays[finite][:_CHECKED_IMAGES] if finite.any() else arrays)
            usable = max(usable, len(taken))
    if usable:
        return len(chosen) / seconds
    if must_work:
        reasons = [f"{chosen[i]}: {failure.error}" for i, failure in sorted(prepared.failures.items())]
        raise BadInputError(
            f"none of {len(chosen)} images tried can be used, so nothing was written; {sample_of(reasons, 3)}",
            hint="check the folder; a dataset needs at least one good image among those tried",
        )
    return None


def add_rows(store: Store, source: Source, name: str, listing: Listing) -> Dataset:
    """Commit new images as rows, making the dataset if needed; a concurrent run that did the same is no conflict."""
    new = listing.new
    provenance = {
        "made by": "extract",
        "source": source.root,
        "skipped": [list(entry) for entry in listing.skipped[:_SKIPPED_RECORDED]],
        "skipped in all": len(listing.skipped),
    }
    for _ in range(_COMMIT_TRIES):
        if store.has_dataset(name):
            rows = store.dataset(name).ids.rows_of([item.id for item in new])
            new = [item for item, row in zip(new, rows, strict=True) if row < 0]
            if not new:
                return store.dataset(name)
        try:
            if store.has_dataset(name):
                return store.append_rows(name, _as_rows(new), provenance=provenance)
            return store.create_dataset(name, _as_rows(new), root=source.root, provenance=provenance)
        except AlreadyExistsError:
            continue  # another run committed some of them between the look and the commit
    raise UsageError(
        f"dataset {name} keeps changing while images are added", hint="let the other extraction finish first"
    )


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


def units_of(jobs: list[FeatureJob]) -> tuple[list[Unit], int]:
    """The work that is left, in row order, and how many rows of all units are done already."""
    together: dict[tuple[int, int], list[tuple[int, int]]] = {}
    pending: set[tuple[int, int]] = set()
    for number, job in enumerate(jobs):
        left = set(job.pending())
        for shard in range(job.n_shards):
            span = job.shard_range(shard)
            together.setdefault(span, []).append((number, shard))
            if shard in left:
                pending.add(span)
    units = [Unit(*span, tuple(shards)) for span, shards in sorted(together.items()) if span in pending]
    return units, sum(stop - start for start, stop in together) - sum(unit.rows for unit in units)


def report_differences(listing: Listing, progress: Progress) -> None:
    """Tell the user what in the source is not as the dataset says, or is not read."""
    if listing.skipped:
        reasons = sample_of([f"{entry.path} ({entry.reason})" for entry in listing.skipped], 3)
        progress.note(f"{len(listing.skipped)} entries skipped: {reasons}")
    if listing.changed:
        progress.note(
            f"{listing.changed} images changed since the dataset was committed; their features stay those of the old content"
        )
    if listing.vanished:
        progress.note(f"{listing.vanished} images of the dataset are not in the source any more; their rows stay")


def _changed(dataset: Dataset, items: list[Item], rows: NDArray[np.int64]) -> int:
    differs = np.zeros(len(items), dtype=bool)
    for column, field in (("size", 2), ("mtime_ns", 3)):
        if column in dataset.column_names:
            stored = dataset.column(column)
            if not isinstance(stored, Categories):
                now: NDArray[Any] = np.array([item[field] for item in items], dtype=np.int64)
                differs |= stored[rows] != now
    return int(differs.sum())


def _as_rows(items: list[Item]) -> NewRows:
    labels = [item.label for item in items]
    return NewRows(
        ids=[item.id for item in items],
        labels=labels if any(label is not None for label in labels) else None,
        columns={
            "size": np.array([item.size for item in items], dtype=np.int64),
            "mtime_ns": np.array([item.mtime_ns for item in items], dtype=np.int64),
        },
    )
