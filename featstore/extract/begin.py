"""What an extraction finds before it does anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.extract.canary import check_numerics
from featstore.extract.listing import Listing, Places, list_source, report_differences
from featstore.extract.outputs import Output, Target, load_outputs, targets
from featstore.extract.plan import Sample, check_spaces, probe
from featstore.extract.request import ExtractRequest
from featstore.extract.tuning import tune
from featstore.progress import Progress
from featstore.sources import Place, Source, open_source
from featstore.store import Store
from featstore.store.names import check_name

__all__ = ["Begun", "begin", "processes_for"]

_PROBE_IMAGES = 32
_WORTH_SECONDS = 5.0  # work that pays for starting a process, which imports torch and loads the encoders


@dataclass(frozen=True)
class Begun:
    """The source, the encoders, and what is to be done.

    Attributes:
        source: Where the images are.
        wanted: What is asked for, by name of the set.
        outputs: The same with the encoders loaded.
        listing: The source compared with the dataset.
        exists: Whether there is a dataset.
        unfinished: Whether a set lacks rows that the dataset has.
        sample: Images that were tried; None if there is nothing to do, or none can be used.
    """

    source: Source
    wanted: dict[str, Target]
    outputs: Mapping[str, Output]
    listing: Listing
    exists: bool
    unfinished: bool
    sample: Sample | None

    @property
    def rate(self) -> float | None:
        """Images a second of one thread, None where nothing was measured."""
        return self.sample.rate if self.sample else None


def begin(store: Store, request: ExtractRequest, progress: Progress) -> Begun:
    """List the source, load the encoders, and try them on a few images if there is anything to do; nothing is written.

    Raises:
        BadInputError: no images, or none that can be used.
        SpaceMismatchError: a feature set exists in another space than its encoder's, or with numerics that differ too much.
    """
    check_name(request.dataset, "dataset")
    wanted = targets(request)
    source = open_source(request.source)
    outputs = load_outputs(wanted)
    listing = list_source(store, source, request.dataset)
    check_spaces(store, request.dataset, outputs)
    report_differences(listing, progress)
    exists = store.has_dataset(request.dataset)
    unfinished = exists and _unfinished(store, request.dataset, wanted)
    sample = None
    if unfinished or listing.new:
        coming = _sample(store, request.dataset, listing, unfinished=unfinished)
        wanted, outputs = tune(source, coming, wanted, outputs, request, progress)
        check_numerics(store, request.dataset, outputs, progress)
        sample = probe(source, coming, outputs, must_work=not exists)
    return Begun(source, wanted, outputs, listing, exists, unfinished, sample)


def processes_for(request: ExtractRequest, rows: int, rate: float | None) -> int:
    """How many processes of this rank shall work: as many as asked for, else one a core, fewer for little work."""
    if request.workers is not None:
        return request.workers
    cores = max(1, len(os.sched_getaffinity(0)) // request.rank.local)
    return cores if rate is None else min(cores, max(1, int(rows / rate / _WORTH_SECONDS)))


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
