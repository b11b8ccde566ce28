"""What the datasets and feature sets of a store take up."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from featstore.errors import UnknownNameError
from featstore.store.inventory import by_segment
from featstore.store.retention import read_versions
from featstore.store.store import Store

__all__ = ["Usage", "usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes and files of one dataset (its ids and columns) or feature set.

    Attributes:
        name: `DATASET` or `DATASET/NAME`.
        versions: How many there are.
        files: Files in all.
        bytes: Bytes in all.
        newest: Bytes that the newest version reads.
        history: Bytes that only earlier versions read.
        unfinished: Bytes that no version reads (yet).
        records: Bytes of versions, tags and search indexes.
    """

    name: str
    versions: int
    files: int
    bytes: int
    newest: int
    history: int
    unfinished: int
    records: int


def usage(store: Store, what: str | None = None) -> list[Usage]:
    """Measure every dataset and feature set, or one dataset with its sets, or one set.

    Raises:
        UnknownNameError: nothing has that name.
    """
    prefixes = [""] if what is None else [f"features/{what}"]
    if what is not None and "/" not in what:
        prefixes.append(f"datasets/{what}")
    published = {info.key: info for prefix in prefixes for info in store.files.walk(prefix)}
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: {"newest": 0, "history": 0, "unfinished": 0})
    all_series = read_versions(store.files, published)
    newest = {key for each in all_series.values() if each.records for key in each.segment_keys([max(each.records)])}
    named = {key for each in all_series.values() for key in each.segment_keys(each.records)}
    for key, segment in by_segment(published.values()).items():
        kind = "newest" if key in newest else "history" if key in named else "unfinished"
        sizes[key.rpartition("/segments/")[0]][kind] += sum(info.size for info in segment.all)
    owned: dict[str, list[int]] = defaultdict(list)
    for info in published.values():
        parts = info.key.split("/")
        owned["/".join(parts[: 2 if parts[0] == "datasets" else 3])].append(info.size)
    found = []
    for key, series in all_series.items():
        if what in (None, series.name, series.name.partition("/")[0]):
            own, parted = owned[key], sizes[key]
            records = sum(own) - sum(parted.values())
            found.append(Usage(series.name, len(series.records), len(own), sum(own), **parted, records=records))
    if not found and what is not None:
        raise UnknownNameError("dataset or feature set", what, store.datasets())
    return sorted(found, key=lambda item: item.name)
