"""Which versions a store keeps: what the current layout needs, what a tag names, and what somebody may still have open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from featstore.errors import sample_of
from featstore.store.files import FileInfo, Files
from featstore.store.log import Log
from featstore.store.records import DatasetVersion, FeatureSetVersion, Plan

__all__ = ["Series", "judge_versions", "read_series", "read_versions"]

Record = DatasetVersion | FeatureSetVersion


@dataclass
class Series:
    """The versions of one dataset or feature set.

    Attributes:
        key: Where they are.
        name: `DATASET` or `DATASET/NAME`.
        records: By number.
        tags: Versions that tags name, by tag.
        kept: Numbers of the versions that stay.
        notes: What stays although a newer layout took its place, and why.
    """

    key: str
    name: str
    records: dict[int, Record]
    tags: dict[str, int]
    kept: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def newest(self) -> Record | None:
        """The newest version, None before the first."""
        return self.records[max(self.records)] if self.records else None

    @property
    def dropped(self) -> list[int]:
        """Numbers of the versions that go, ascending."""
        return sorted(self.records.keys() - self.kept)

    def version_key(self, number: int) -> str:
        """Where a version is."""
        return f"{self.key}/versions/{number}.json"

    def segments(self, numbers: Iterable[int]) -> set[str]:
        """Names of the segments that some of the versions name."""
        found: set[str] = set()
        for number in numbers:
            record = self.records[number]
            found.update(part.name for part in record.segments)
            if isinstance(record, DatasetVersion):
                found.update(part.name for part in record.overlays)
                found.update(part.name for part in record.removed)
            elif record.mixture is not None:
                found.add(record.mixture.name)
        return found

    def segment_keys(self, numbers: Iterable[int]) -> set[str]:
        """Keys of the segments that some of the versions name."""
        return {f"{self.key}/segments/{name}" for name in self.segments(numbers)}


def read_versions(files: Files, published: Iterable[str]) -> dict[str, Series]:
    """Every dataset's and feature set's versions by key.

    Raises:
        CorruptStoreError: a version is damaged.
    """
    keys = [f"datasets/{name}" for name in files.names("datasets")]
    keys += sorted({"/".join(parts[:3]) for key in published if _of_a_set(parts := key.split("/"))})
    return {key: read_series(files, key) for key in keys}


def read_series(files: Files, key: str, *, after: int = 0) -> Series:
    """The versions of one dataset or feature set, as far as they come after a number."""
    log: Log[DatasetVersion] | Log[FeatureSetVersion]
    log = Log(files, key, FeatureSetVersion) if key.startswith("features/") else Log(files, key, DatasetVersion)
    read = ((number, log.listed(number)) for number in log.numbers() if number > after)
    records = {number: record for number, record in read if record is not None}
    return Series(key, key.partition("/")[2], records, log.tags())


def judge_versions(
    series: Mapping[str, Series], published: Mapping[str, FileInfo], plans: Iterable[Plan], *, cutoff: float
) -> None:
    """Say of each version whether it stays.

    It does while its layout is that of the newest one, while a tag names it, and while its layout ended after the cutoff: until
    then somebody may have it open. Of a dataset, the version by which a set of an earlier layout is read stays as long as
    that set does. Versions of one layout share their files, so that keeping them all costs next to nothing.

    Args:
        series: From `read_versions`.
        published: Everything published, by key.
        plans: Uncommitted plans that stay.
        cutoff: Seconds since 1970 by the clock of the place.
    """
    # (layout, version) of each dataset, the layout's last version if None
    needed: dict[str, set[tuple[int, int | None]]] = {}
    for each in series.values():
        _judge(each, published, cutoff)
        for number in each.kept:
            record = each.records[number]
            if isinstance(record, FeatureSetVersion):
                needed.setdefault(record.dataset, set()).add((record.layout, None))
    for plan in plans:
        needed.setdefault(plan.dataset, set()).update({(plan.layout, None), (plan.layout, plan.dataset_version)})
    for each in series.values():
        if isinstance(newest := each.newest, DatasetVersion):
            for layout, chosen in needed.get(newest.name, ()):
                last = newest.earlier[layout - 1] if layout < newest.layout else newest.number
                each.kept |= {chosen or last} & each.records.keys()


def _of_a_set(parts: list[str]) -> bool:
    return parts[0] == "features" and len(parts) > 3  # features/DATASET/NAME/…


def _judge(series: Series, published: Mapping[str, FileInfo], cutoff: float) -> None:
    newest = series.newest
    if newest is None:
        return
    recent = []
    for number, record in series.records.items():
        tags = sorted(tag for tag, tagged in series.tags.items() if tagged == number)
        if record.layout == newest.layout:
            series.kept.add(number)
        elif tags:
            series.kept.add(number)
            series.notes.append(
                f"{series.name}@{number} still holds rows that were removed since, because the tag {', '.join(tags)} names it"
            )
        elif _ended(series, record.layout, published) > cutoff or series.version_key(number) not in published:
            series.kept.add(number)
            recent.append(f"@{number}")
    if recent:
        series.notes.append(
            f"{series.name}{sample_of(recent)} may be open somewhere: compaction replaced it within the grace period"
        )


def _ended(series: Series, layout: int, published: Mapping[str, FileInfo]) -> float:
    """When the first version of a later layout was committed."""
    first = min(number for number, record in series.records.items() if record.layout > layout)
    info = published.get(series.version_key(first))
    return info.modified if info else float("inf")
