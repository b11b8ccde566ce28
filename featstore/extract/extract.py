"""Extraction: images of a source → rows of a dataset → feature sets, of every encoder one and one for each view."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

import featstore
from featstore.extract.begin import Begun, begin, processes_for
from featstore.extract.canary import keep_canary
from featstore.extract.interrupts import Interrupts
from featstore.extract.ledger import Ledger
from featstore.extract.listing import Listing, add_rows
from featstore.extract.outputs import Output
from featstore.extract.plan import Unit, division_of, plan_jobs
from featstore.extract.process import keep_memory
from featstore.extract.ray_engine import run_ray
from featstore.extract.request import ExtractReport, ExtractRequest, SetReport
from featstore.extract.stages import Stages
from featstore.extract.workers import Work, run_here, run_workers
from featstore.progress import SILENT, Progress
from featstore.store import Dataset, FeatureJob, RowStatus, Store

__all__ = ["extract"]


@dataclass
class _Done:
    """What this run did."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    rows_of_set: Counter[str] = field(default_factory=Counter)
    copied: dict[str, Counter[str]] = field(default_factory=dict)
    spared: int = 0
    left: dict[str, int] = field(default_factory=dict)
    stages: Stages = field(default_factory=Stages)
    seconds: float = 0.0
    interrupted: bool = False


def extract(store: Store, request: ExtractRequest, progress: Progress = SILENT) -> ExtractReport:
    """Encode the images of a source that the feature sets do not have yet.

    Every image is read and decoded once for all models. Running the same request again continues after the last finished
    shard, adds images that are new in the source, and returns at once when there is nothing to do.

    Args:
        store: Where datasets and features are.
        request: What to do.
        progress: Told how far it is, in images.

    Raises:
        BadInputError: no images, none that can be used, or more failures than allowed.
        SpaceMismatchError: a feature set exists in another space than its encoder's.
        KeyboardInterrupt: the user interrupted; finished shards stay.
    """
    began = time.perf_counter()
    keep_memory()
    begun = begin(store, request, progress)
    done = _Done()
    # rows the dataset has come first and alone: an interrupted plan covers exactly these, and is continued
    if begun.unfinished:
        _fill(store, request, begun, store.dataset(request.dataset), done, progress)
    if begun.listing.new and done.interrupted:
        raise KeyboardInterrupt
    if begun.listing.new and any(done.left.values()):
        progress.note(f"{len(begun.listing.new)} new images wait for the other ranks; run the same command again then")
    elif begun.listing.new:
        dataset = add_rows(store, begun.source, request.dataset, begun.listing)
        _fill(store, request, begun, dataset, done, progress)
    if request.canary:
        for name in begun.wanted.keys() - {name for name, left in done.left.items() if left}:
            keep_canary(store, begun.source, f"{request.dataset}/{name}", inputs=request.canary)
    return _report(store, request.dataset, begun.wanted, begun.listing, done, time.perf_counter() - began)


def _fill(
    store: Store, request: ExtractRequest, begun: Begun, dataset: Dataset, done: _Done, progress: Progress
) -> None:
    """Bring every set up to the dataset's rows."""
    most = processes_for(request, dataset.rows, None) * request.rank.count
    jobs = plan_jobs(store, dataset, begun.outputs, dtype=request.dtype, rate=begun.rate, workers=most)
    for job in jobs.values():
        job.tell_of_others(progress)
    units, finished, failed = division_of(list(jobs.values()), request.rank)
    pending = _pending_rows(jobs, units)
    total = finished + sum(unit.rows for unit in units)
    progress.start(f"extract {dataset.name}", total, "images", done=finished)
    began = time.perf_counter()
    if units:
        work = Work(
            store=store,
            dataset=(dataset.name, dataset.version),
            source=begun.source,
            targets=tuple(begun.wanted[name] for name in jobs),
            jobs=tuple(jobs.values()),
            batch=request.batch,
            zero_rows=request.zero_rows,
        )
        workers = processes_for(request, sum(unit.rows for unit in units), begun.rate)
        ledger = Ledger(len(units), request.max_failures, progress, before=(finished, failed))
        done.interrupted = _run(
            request, work, [begun.outputs[name] for name in jobs], units, min(workers, len(units)), ledger, progress
        )
        done.spared += ledger.spared
        done.stages = Stages.sum([done.stages, ledger.stages])
        for number, name in enumerate(jobs):
            done.copied.setdefault(name, Counter()).update(ledger.copied(number))
    for name, job in jobs.items():
        done.rows_of_set[name] += pending[name]
        done.left[name] = _rows_of(job, job.pending())
        if done.left[name]:
            continue  # other ranks have shards to finish; whoever is last commits
        job.commit(
            {
                "made by": "extract",
                "model": begun.wanted[name].uri,
                "source": begun.source.root,
                "featstore": featstore.__version__,
            }
        )
    done.spans += [(unit.start, unit.stop) for unit in units]
    done.seconds += time.perf_counter() - began


def _run(
    request: ExtractRequest,
    work: Work,
    outputs: list[Output],
    units: list[Unit],
    workers: int,
    ledger: Ledger,
    progress: Progress,
) -> bool:
    """Do the units; True if the user asked to stop while the last of them were under way."""
    with Interrupts() as stop:
        if request.engine == "ray":
            run_ray(work, units, request.workers, request.gpus_per_worker, ledger, stop, progress)
        elif workers == 1:
            run_here(work, outputs, units, ledger, stop, progress)
        else:
            run_workers(work, units, workers, ledger, stop, progress)
        return stop.requested


def _pending_rows(jobs: Mapping[str, FeatureJob], units: list[Unit]) -> dict[str, int]:
    """Rows that the units will add to each set."""
    counts = {}
    for number, (name, job) in enumerate(jobs.items()):
        mine = {shard for unit in units for owner, shard in unit.shards if owner == number}
        counts[name] = _rows_of(job, mine & set(job.pending()))
    return counts


def _rows_of(job: FeatureJob, shards: Iterable[int]) -> int:
    return sum(stop - start for start, stop in map(job.shard_range, shards))


def _report(
    store: Store, name: str, wanted: Iterable[str], listing: Listing, done: _Done, seconds: float
) -> ExtractReport:
    dataset = store.dataset(name)
    touched = np.zeros(dataset.rows, dtype=bool)
    for start, stop in done.spans:
        touched[start:stop] = True
    failed = np.zeros(dataset.rows, dtype=bool)
    sets = {}
    for name in wanted:
        key = f"{dataset.name}/{name}"
        features = store.features(key) if store.has_features(key) else None
        bad = np.zeros(0, dtype=bool) if features is None else features.status() == RowStatus.FAILED
        failed[: len(bad)] |= bad
        new, left = done.rows_of_set[name], done.left.get(name, 0)
        copied = dict(done.copied.get(name, {}))
        sets[name] = SetReport(
            ref=features.ref if features else key,
            rows=features.rows if features else 0,
            failed=int(bad.sum()),
            encoded=new - sum(copied.values()),
            copied=copied,
            cached=dataset.rows - new - left,
            left=left,
        )
    encoded = int(touched.sum()) - done.spared
    left = max((item.left for item in sets.values()), default=0)
    return ExtractReport(
        dataset=f"{dataset.name}@{dataset.version}",
        images=dataset.rows,
        encoded=encoded,
        copied=done.spared,
        cached=dataset.rows - encoded - done.spared - left,
        failed=int(failed.sum()),
        left=left,
        skipped=listing.skipped_in_all,
        changed=listing.changed,
        vanished=listing.vanished,
        seconds=seconds,
        images_per_second=encoded / done.seconds if encoded else 0.0,
        stages=done.stages.report(),
        limit=done.stages.limit,
        bytes_read=done.stages.bytes_read,
        bytes_written=done.stages.bytes_written,
        sets=sets,
    )
