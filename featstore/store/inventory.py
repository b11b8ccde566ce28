"""Every published file by the segment it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from featstore.store.files import FileInfo

__all__ = ["SegmentFiles", "by_segment", "plan_of"]


@dataclass
class SegmentFiles:
    """The files of one segment.

    Attributes:
        data: Those of its Zarr group.
        plan: Its plan, the records of its shards and the pointer to its digest index.
        alive: Heartbeats.
    """

    data: list[FileInfo] = field(default_factory=list)
    plan: list[FileInfo] = field(default_factory=list)
    alive: list[FileInfo] = field(default_factory=list)

    @property
    def all(self) -> list[FileInfo]:
        """All of them."""
        return [*self.plan, *self.data, *self.alive]


def by_segment(published: Iterable[FileInfo]) -> dict[str, SegmentFiles]:
    """Files of segments and of their plans, by the key of the segment."""
    found: dict[str, SegmentFiles] = {}
    for info in published:
        parts = info.key.split("/")
        if parts[0] == "spaces" and len(parts) == 5:  # the pointer to a segment's digest index goes with the segment
            parts = ["features", *parts[2:4], "plans", parts[4].removesuffix(".json"), "index.json"]
        depth = {"datasets": 2, "features": 3}.get(parts[0], len(parts))
        folder = parts[depth] if len(parts) > depth + 2 else ""
        if folder not in ("segments", "plans"):
            continue
        segment = found.setdefault("/".join([*parts[:depth], "segments", parts[depth + 1]]), SegmentFiles())
        if folder == "segments":
            segment.data.append(info)
        elif parts[depth + 2] == "alive":
            segment.alive.append(info)
        else:
            segment.plan.append(info)
    return found


def plan_of(segment: str) -> str:
    """The key of a segment's plan from its own."""
    base, _, name = segment.rpartition("/segments/")
    return f"{base}/plans/{name}"
