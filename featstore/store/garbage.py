"""Deleting what nothing holds: leftovers of writers that died, and what compaction left behind.

Four kinds of files go, each by its own rule:

- *Versions of an earlier layout* (see `featstore.store.retention`) and the segments that only they name. They were committed,
  so no writer depends on them. The segments are listed in a record under `gc/` first, then the versions are deleted, then the
  segments: whoever opens the store meanwhile sees no version without its data, and a crash in between leaves a list of
  what to finish.
- *Unfinished segments* that no version names. A writer may be at work on them, so they stay while one has a fresh heartbeat,
  and until nothing was written to them for the grace period (ten minutes at least; an hour for rows of a dataset, which have no
  heartbeat). The plan goes first; then heartbeats and versions are looked at once more. A writer reports first and looks
  for its plan then (`FeatureJob.announce`), so one of the two always sees the other.
- *Search indexes* of an older version than the newest, which may hold rows that were removed since, and unfinished ones.
- *Traces* without content: heartbeats of the dead, unpublished temporary files, probes.

Files that featstore does not know are never touched.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel

from featstore.errors import NotFoundError
from featstore.progress import SILENT, Progress
from featstore.store.files import FileInfo, Files
from featstore.store.heartbeats import LIVE_S, place_time, writers
from featstore.store.inventory import SegmentFiles, by_segment, plan_of
from featstore.store.records import DatasetVersion, Plan, dump, fetch_if_there
from featstore.store.retention import judge_versions, read_series, read_versions
from featstore.store.store import Store

__all__ = ["DEFAULT_GRACE", "Garbage", "GarbageReport", "collect_garbage"]

DEFAULT_GRACE = timedelta(days=7)
# nothing tells whether a writer without heartbeat is at work, and it may write or compare ids for long
_UNANNOUNCED_S = 3600.0
_LISTS = "gc"


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that goes.

    Attributes:
        where: A key, or the version it was.
        why: Why nothing holds it.
        files: How many files.
        bytes: Their size.
    """

    where: str
    why: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What was deleted, or would be.

    Attributes:
        dry_run: Whether nothing was touched.
        garbage: What went.
        kept: What stays although it is in nobody's way or could be expected to go, and why.
    """

    dry_run: bool
    garbage: tuple[Garbage, ...]
    kept: tuple[str, ...]

    @property
    def files(self) -> int:
        """How many files went."""
        return sum(item.files for item in self.garbage)

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(item.bytes for item in self.garbage)


class _Doomed(BaseModel):
    """`gc/<name>.json`: segments that no kept version names, whatever a crash leaves of the versions that did."""

    segments: tuple[str, ...]


def collect_garbage(
    store: Store, *, grace: timedelta = DEFAULT_GRACE, dry_run: bool = False, progress: Progress = SILENT
) -> GarbageReport:
    """Delete what no version, tag, writer or recent reader needs.

    Tags and versions of the current layout always stay. A reader that opened a version within the grace period finds all its
    files; on a local disk, one that has mapped them goes on reading even after they are deleted.

    Args:
        store: The store.
        grace: How long replaced versions stay readable and unfinished work may rest.
        dry_run: Only say what would go.
        progress: Told how far it is, in files.

    Raises:
        CorruptStoreError: a version cannot be read, so what it holds is not known; nothing is deleted.
    """
    return _Collection(store.files, grace.total_seconds(), place_time(store.files)).run(dry_run, progress)


class _Collection:
    """One run: look at everything, decide, delete."""

    def __init__(self, files: Files, grace: float, now: float) -> None:
        self._files = files
        self._now = now
        self._grace = grace
        self._published = {info.key: info for info in files.walk()}
        self._series = read_versions(files, self._published)
        self._segments = by_segment(self._published.values())
        self._lists = [key for key in self._published if key.startswith(f"{_LISTS}/")]
        self._kept: list[str] = []
        self._steps: list[tuple[Garbage, Callable[[], None]]] = []

    def run(self, dry_run: bool, progress: Progress) -> GarbageReport:
        named = {key for each in self._series.values() for key in each.segment_keys(each.records)}
        doomed = {segment for key in self._lists for segment in self._read_list(key)}
        unnamed = [key for key in self._segments if key not in named and key not in doomed]
        orphans = [key for key in unnamed if self._abandoned(key)]
        plans = [plan for key in unnamed if key not in orphans and (plan := self._plan(key)) is not None]
        judge_versions(self._series, self._published, plans, cutoff=self._now - self._grace)
        held = {key for each in self._series.values() for key in each.segment_keys(each.kept)}
        doomed = (doomed | named) & self._segments.keys() - held
        self._note()

        self._drop_versions()
        for key in sorted(doomed):
            segment = self._segments[key]
            self._step(key, "only versions of an earlier layout named it", segment.all, self._delete_committed(segment))
        for key in orphans:
            self._step(
                key, "unfinished, and nobody is at work on it", self._segments[key].all, self._delete_orphan(key)
            )
        self._drop_traces(held)
        self._drop_indexes()
        if not dry_run:
            if doomed:
                self._write_list(doomed)
            progress.start("gc", sum(item.files for item, _ in self._steps), "files")
            for item, act in self._steps:
                act()
                progress.advance(item.files)
            self._files.delete(self._lists)
        return GarbageReport(dry_run, tuple(item for item, _ in self._steps if item.files), tuple(self._kept))

    # --- deciding --------------------------------------------------------------------------------------------------

    def _abandoned(self, key: str) -> bool:
        """Whether an unnamed segment goes."""
        segment = self._segments[key]
        announced = key.startswith("features/")
        present = writers(self._files, plan_of(key), now=self._now) if announced and segment.alive else []
        idle = self._now - max(info.modified for info in segment.all)
        size = sum(info.size for info in segment.all)
        if present:
            self._kept.append(f"{key}, {size:,} bytes: {present[0]} is at work on it")
        elif idle < max(self._grace, LIVE_S if announced else _UNANNOUNCED_S):
            self._kept.append(f"{key}, {size:,} bytes: unfinished, and touched {_ago(idle)} ago")
        else:
            return True
        return False

    def _plan(self, key: str) -> Plan | None:
        plan = f"{plan_of(key)}/plan.json"
        return fetch_if_there(self._files, Plan, plan) if plan in self._published else None

    def _note(self) -> None:
        for each in self._series.values():
            self._kept += each.notes
            if isinstance(each.newest, DatasetVersion) and each.newest.removed:
                rows = sum(part.rows for part in each.newest.removed)
                self._kept.append(
                    f"{rows:,} removed rows of {each.name} are still stored; `featstore compact {each.name}` leaves them out"
                )

    def _read_list(self, key: str) -> tuple[str, ...]:
        found = fetch_if_there(self._files, _Doomed, key)
        return found.segments if found else ()  # another collection has finished it since

    # --- deleting --------------------------------------------------------------------------------------------------

    def _step(self, where: str, why: str, infos: Iterable[FileInfo], act: Callable[[], None]) -> None:
        listed = list(infos)
        self._steps.append((Garbage(where, why, len(listed), sum(info.size for info in listed)), act))

    def _drop_versions(self) -> None:
        # sets before datasets, by whose versions they are read
        for each in sorted(self._series.values(), key=lambda each: each.key, reverse=True):
            for number in each.dropped:
                info = self._published[each.version_key(number)]
                self._step(f"{each.name}@{number}", "compaction replaced it", [info], self._delete([info.key]))

    def _drop_traces(self, held: set[str]) -> None:
        for key in sorted(held & self._segments.keys()):
            stale = [info for info in self._segments[key].alive if self._now - info.modified > LIVE_S]
            if stale:
                self._step(f"{plan_of(key)}/alive", "the work is done", stale, self._delete(_keys(stale)))
        floor = max(self._grace, _UNANNOUNCED_S)
        for info in self._files.leftovers():
            if self._now - info.modified > floor:
                self._step(info.key, "its writer died before it was published", [info], self._delete([info.key]))
            else:
                self._kept.append(
                    f"{info.key}, {info.size:,} bytes: unpublished, and touched {_ago(self._now - info.modified)} ago"
                )
        for info in self._published.values():
            if info.key.startswith(("clock/", "probe-")) and self._now - info.modified > floor:
                self._step(info.key, "left by a probe", [info], self._delete([info.key]))

    def _drop_indexes(self) -> None:
        """Search indexes of older versions, which may hold rows that were removed since, and unfinished ones."""
        found: dict[str, list[FileInfo]] = {}
        for info in self._published.values():
            base, inside, rest = info.key.partition("/indexes/")
            if inside and base in self._series:
                found.setdefault(f"{base}/indexes/{rest.partition('/')[0]}", []).append(info)
        for folder, infos in sorted(found.items()):
            newest = self._series[folder.partition("/indexes/")[0]].newest
            record = f"{folder}/index.json"
            if newest is None:
                continue
            if record in self._published:
                said = self._get(record)
                outdated = said is None or json.loads(said).get("uuid") != newest.uuid
                why = "the set has a newer version than the one it was built from"
            else:
                outdated = self._now - max(info.modified for info in infos) > max(self._grace, _UNANNOUNCED_S)
                why = "an index that was never finished"
            if outdated:
                self._step(folder, why, infos, self._delete(_keys(infos)))

    def _delete(self, keys: Iterable[str]) -> Callable[[], None]:
        listed = list(keys)
        return lambda: self._files.delete(listed)

    def _delete_committed(self, segment: SegmentFiles) -> Callable[[], None]:
        def act() -> None:
            self._files.delete(_keys([*segment.plan, *segment.alive]))
            self._files.delete(_keys(segment.data))

        return act

    def _delete_orphan(self, key: str) -> Callable[[], None]:
        segment = self._segments[key]
        plan = f"{plan_of(key)}/plan.json"

        def act() -> None:
            if key.startswith("features/"):
                published = self._get(plan) if plan in self._published else None
                self._files.delete([plan])
                if writers(self._files, plan_of(key), now=place_time(self._files)) or self._is_named(key):
                    if published is not None:
                        self._files.put_new(plan, [published])
                    return
            elif self._is_named(key):
                return
            self._files.delete(_keys(segment.plan))
            self._files.delete(_keys([*segment.data, *segment.alive]))

        return act

    def _get(self, key: str) -> bytes | None:
        """The bytes of a file that was there a moment ago; None if another collection has taken it since."""
        try:
            return self._files.get(key)
        except NotFoundError:
            return None

    def _is_named(self, key: str) -> bool:
        """Whether a version that was committed since the survey names a segment."""
        base, _, name = key.rpartition("/segments/")
        known = self._series.get(base)
        later = read_series(self._files, base, after=max(known.records, default=0) if known else 0)
        return name in later.segments(later.records)

    def _write_list(self, doomed: set[str]) -> None:
        key = f"{_LISTS}/{secrets.token_hex(8)}.json"
        self._files.put_new(key, [dump(_Doomed(segments=tuple(sorted(doomed))))])
        self._lists.append(key)


def _keys(infos: Iterable[FileInfo]) -> list[str]:
    return [info.key for info in infos]


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
