"""What is in a source, compared with the dataset made from it; new images become rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from featstore.errors import AlignmentError, AlreadyExistsError, UsageError, sample_of
from featstore.extract.compact import CompactItems
from featstore.progress import Progress
from featstore.sources import NOWHERE, Item, Place, Skipped, Source
from featstore.store import Categories, Dataset, Store

__all__ = ["Listing", "Places", "add_rows", "list_source", "report_differences"]

_BLOCK = 1 << 16
_SEGMENT_ROWS = 1 << 20
_SKIPPED_RECORDED = 100
_COMMIT_TRIES = 5


@dataclass
class Listing:
    """A source compared with the dataset made from it.

    Attributes:
        new: Images the dataset does not have.
        known: Rows of the dataset that the source has, in its order.
        skipped: The first entries that are not read, and why.
        skipped_in_all: How many there are.
        changed: Images whose size or time differs from the dataset's.
        vanished: Rows of the dataset that are not in the source.
    """

    new: CompactItems = field(default_factory=CompactItems)
    known: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    skipped: list[Skipped] = field(default_factory=list)
    skipped_in_all: int = 0
    changed: int = 0
    vanished: int = 0

    def skip(self, entry: Skipped) -> None:
        """Count an entry that is not read."""
        self.skipped_in_all += 1
        if len(self.skipped) < _SKIPPED_RECORDED:
            self.skipped.append(entry)


class Places:
    """Where in their source the rows of a dataset lie.

    Args:
        dataset: Whose rows.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        names = dataset.column_names
        there = "source_file" in names and "source_position" in names
        self._files = dataset.column("source_file") if there else None
        self._positions = dataset.column("source_position") if there else None

    def take(self, rows: NDArray[np.int64] | range) -> list[tuple[str, Place]]:
        """Id and place of some rows."""
        ids = self._dataset.ids.take(rows)
        if not isinstance(self._files, Categories) or isinstance(self._positions, Categories | None):
            return [(id_, NOWHERE) for id_ in ids]
        at = np.fromiter(rows, dtype=np.int64)
        files = self._files[at].texts()
        positions = self._positions[at].tolist()
        return [
            (id_, NOWHERE if position != position or position < 0 else Place(file or "", int(position)))
            for id_, file, position in zip(ids, files, positions, strict=True)
        ]


def list_source(store: Store, source: Source, name: str) -> Listing:
    """List a source and compare it with the dataset, if that exists.

    Raises:
        BadInputError: no images, or two of one id.
        AlignmentError: the dataset was made from something else.
    """
    listing = Listing()
    dataset = store.dataset(name) if store.has_dataset(name) else None
    known = []
    for block in _blocks(source.rows(listing.skip)):
        if dataset is None:
            listing.new.extend(block)
            continue
        rows = dataset.ids.rows_of([item.id for item in block])
        there = rows >= 0
        listing.new.extend([item for item, row in zip(block, rows, strict=True) if row < 0])
        found = [item for item, row in zip(block, rows, strict=True) if row >= 0]
        listing.changed += _changed(dataset, found, rows[there], times=dataset.root == source.root)
        known.append(rows[there])
    listing.new.check_ids()
    if dataset is None:
        return listing
    listing.known = np.concatenate(known) if known else listing.known
    listing.vanished = len(dataset.live_rows()) - len(listing.known)
    if dataset.root != source.root and (listing.vanished or listing.changed):
        # the same folder under another path has the same images; anything else must not pass for them
        origin = f"made from {dataset.root}" if dataset.root else "not made from a folder"
        raise AlignmentError(
            f"dataset {name} was {origin}, and {source.root} is not the same: "
            f"{listing.vanished} of its {dataset.rows} images are not there, {listing.changed} are other files",
            hint="give the folder it was made from, or choose another --dataset name",
        )
    return listing


def add_rows(store: Store, source: Source, name: str, listing: Listing) -> Dataset:
    """Commit new images as rows, making the dataset if needed; a concurrent run that did the same is no conflict.

    Many rows are committed a million at a time, so that no list of all of them is ever needed.
    """
    provenance = {
        "made by": "extract",
        "source": source.root,
        "skipped": [list(entry) for entry in listing.skipped],
        "skipped in all": listing.skipped_in_all,
    }
    for start in range(0, len(listing.new), _SEGMENT_ROWS):
        stop = min(len(listing.new), start + _SEGMENT_ROWS)
        _add_block(store, source, name, listing.new, np.arange(start, stop), provenance)
    return store.dataset(name)


def _add_block(
    store: Store,
    source: Source,
    name: str,
    items: CompactItems,
    chosen: NDArray[np.int64],
    provenance: dict[str, object],
) -> None:
    for _ in range(_COMMIT_TRIES):
        if store.has_dataset(name):
            chosen = chosen[store.dataset(name).ids.rows_of(items.ids(chosen)) < 0]
            if not len(chosen):
                return
        rows = items.rows(chosen)
        try:
            if store.has_dataset(name):
                store.append_rows(name, rows, provenance=provenance)
            else:
                store.create_dataset(name, rows, root=source.root, provenance=provenance)
        except AlreadyExistsError:
            continue  # another run committed some of them between the look and the commit
        return
    raise UsageError(
        f"dataset {name} keeps changing while images are added", hint="let the other extraction finish first"
    )


def report_differences(listing: Listing, progress: Progress) -> None:
    """Tell the user what in the source is not as the dataset says, or is not read."""
    if listing.skipped:
        reasons = sample_of([f"{entry.path} ({entry.reason})" for entry in listing.skipped], 3)
        progress.note(f"{listing.skipped_in_all} entries skipped: {reasons}")
    for column, why in listing.new.left_out.items():
        progress.note(f"column '{column}' of the source is left out: {why}")
    if listing.changed:
        progress.note(
            f"{listing.changed} images changed since the dataset was committed; their features stay those of the old content"
        )
    if listing.vanished:
        progress.note(f"{listing.vanished} images of the dataset are not in the source any more; their rows stay")


def _blocks(items: Iterator[Item]) -> Iterator[list[Item]]:
    while block := list(islice(items, _BLOCK)):
        yield block


def _changed(dataset: Dataset, items: list[Item], rows: NDArray[np.int64], *, times: bool) -> int:
    """How many rows have another size now, or another time; a copy elsewhere may well have other times."""
    differs = np.zeros(len(items), dtype=bool)
    for column, field_number in (("size", 2), ("mtime_ns", 3))[: 1 + times]:
        if column in dataset.column_names:
            stored = dataset.column(column)
            if not isinstance(stored, Categories):
                now = np.array([item[field_number] for item in items], dtype=np.int64)
                differs |= (stored[rows] != now) & (stored[rows] >= 0) & (now >= 0)  # unknown is no difference
    return int(differs.sum())
