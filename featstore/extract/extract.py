"""Extraction: images of a source → rows of a dataset → feature sets, of every encoder one and one for each view."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import featstore
from featstore.extract.canary import check_numerics, keep_canary
from featstore.extract.interrupts import Interrupts
from featstore.extract.ledger import Ledger
from featstore.extract.listing import Listing, Places, add_rows, list_source, report_differences
from featstore.extract.outputs import Output, Target, load_outputs, targets
from featstore.extract.plan import Unit, check_spaces, plan_jobs, probe, units_of
from featstore.extract.process import keep_memory
from featstore.extract.request import ExtractReport, ExtractRequest, SetReport
from featstore.extract.workers import Work, run_here, run_workers
from featstore.progress import SILENT, Progress
from featstore.sources import Place, Source, open_source
from featstore.store import Dataset, FeatureJob, RowStatus, Store
from featstore.store.names import check_name

__all__ = ["extract"]

_PROBE_IMAGES = 32
_WORTH_SECONDS = 5.0  # work that pays for starting a process, which imports torch and loads the encoders


@dataclass
class _Done:
    """What this run did."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    rows_of_set: Counter[str] = field(default_factory=Counter)
    copied: dict[str, Counter[str]] = field(default_factory=dict)
    spared: int = 0
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
    check_name(request.dataset, "dataset")
    wanted = targets(request)
    source = open_source(request.source)
    outputs = load_outputs(wanted)
    listing = list_source(store, source, request.dataset)
    check_spaces(store, request.dataset, outputs)
    report_differences(listing, progress)

    done = _Done()
    exists = store.has_dataset(request.dataset)
    unfinished = exists and _unfinished(store, request.dataset, wanted)
    if unfinished or listing.new:
        check_numerics(store, request.dataset, outputs, progress)
        coming = _sample(store, request.dataset, listing, unfinished=unfinished)
        rate = probe(source, coming, outputs, must_work=not exists)
        # rows the dataset has come first and alone: an interrupted plan covers exactly these, and is continued
        if unfinished:
            _fill(store, request, source, wanted, outputs, store.dataset(request.dataset), rate, done, progress)
        if listing.new and done.interrupted:
            raise KeyboardInterrupt
        if listing.new:
            dataset = add_rows(store, source, request.dataset, listing)
            _fill(store, request, source, wanted, outputs, dataset, rate, done, progress)
    if request.canary:
        for name in wanted:
            keep_canary(store, source, f"{request.dataset}/{name}", inputs=request.canary)
    return _report(store, request.dataset, wanted, listing, done, time.perf_counter() - began)


def _sample(store: Store, name: str, listing: Listing, *, unfinished: bool) -> list[tuple[str, Place]]:
    """Images to come, spread over the source."""
    if unfinished:
        rows = listing.known if len(listing.known) else store.dataset(name).live_rows()
        return Places(store.dataset(name)).take(rows[_spread(len(rows))])
    return listing.new.places(_spread(len(listing.new)))


def _spread(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, _PROBE_IMAGES).astype(np.int64))


def _unfinished(store: Store, dataset: str, names: Iterable[str]) -> bool:
    rows = store.dataset(dataset).rows
    keys = [f"{dataset}/{name}" for name in names]
    return any(not store.has_features(key) or store.features(key).rows < rows for key in keys)


def _fill(
    store: Store,
    request: ExtractRequest,
    source: Source,
    wanted: Mapping[str, Target],
    outputs: Mapping[str, Output],
    dataset: Dataset,
    rate: float | None,
    done: _Done,
    progress: Progress,
) -> None:
    """Bring every set up to the dataset's rows."""
    cores = len(os.sched_getaffinity(0))
    workers = request.workers or cores
    jobs = plan_jobs(store, dataset, outputs, dtype=request.dtype, rate=rate, workers=workers)
    for job in jobs.values():
        job.tell_of_others(progress)
    units, finished = units_of(list(jobs.values()))
    pending = _pending_rows(jobs)
    total = finished + sum(unit.rows for unit in units)
    progress.start(f"extract {dataset.name}", total, "images", done=finished)
    began = time.perf_counter()
    if units:
        work = Work(
            store=store,
            dataset=(dataset.name, dataset.version),
            source=source,
            targets=tuple(wanted[name] for name in jobs),
            jobs=tuple(jobs.values()),
            batch=request.batch,
            zero_rows=request.zero_rows,
        )
        if request.workers is None and rate is not None:
            workers = min(cores, max(1, int(sum(unit.rows for unit in units) / rate / _WORTH_SECONDS)))
        ledger = Ledger(len(units), request.max_failures, progress)
        done.interrupted = _run(
            work, [outputs[name] for name in jobs], units, min(workers, len(units)), ledger, progress
        )
        done.spared += ledger.spared
        for number, name in enumerate(jobs):
            done.copied.setdefault(name, Counter()).update(ledger.copied(number))
    for name, job in jobs.items():
        job.commit(
            {
                "made by": "extract",
                "model": wanted[name].uri,
                "source": source.root,
                "featstore": featstore.__version__,
            }
        )
        done.rows_of_set[name] += pending[name]
    done.spans += [(unit.start, unit.stop) for unit in units]
    done.seconds += time.perf_counter() - began


def _run(
    work: Work, outputs: list[Output], units: list[Unit], workers: int, ledger: Ledger, progress: Progress
) -> bool:
    """Do the units; True if the user asked to stop while the last of them were under way."""
    with Interrupts() as stop:
        if workers == 1:
            run_here(work, outputs, units, ledger, stop, progress)
        else:
            run_workers(work, units, workers, ledger, stop, progress)
        return stop.requested


def _pending_rows(jobs: Mapping[str, FeatureJob]) -> dict[str, int]:
    counts = {}
    for name, job in jobs.items():
        spans = [job.shard_range(shard) for shard in job.pending()]
        counts[name] = sum(stop - start for start, stop in spans)
    return counts


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
        features = store.features(f"{dataset.name}/{name}")
        bad = features.status() == RowStatus.FAILED
        failed[: features.rows] |= bad
        new = done.rows_of_set[name]
        copied = dict(done.copied.get(name, {}))
        sets[name] = SetReport(
            ref=features.ref,
            rows=features.rows,
            failed=int(bad.sum()),
            encoded=new - sum(copied.values()),
            copied=copied,
            cached=features.rows - new,
        )
    encoded = int(touched.sum()) - done.spared
    return ExtractReport(
        dataset=f"{dataset.name}@{dataset.version}",
        images=dataset.rows,
        encoded=encoded,
        copied=done.spared,
        cached=dataset.rows - encoded - done.spared,
        failed=int(failed.sum()),
        skipped=listing.skipped_in_all,
        changed=listing.changed,
        vanished=listing.vanished,
        seconds=seconds,
        images_per_second=encoded / done.seconds if encoded else 0.0,
        sets=sets,
    )
