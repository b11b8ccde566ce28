"""Where the time goes: seconds by stage of the way from a file to a published feature."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import BaseModel

__all__ = ["Stage", "StageReport", "Stages"]

Stage = Literal["read", "decode", "preprocess", "encode", "write"]


class StageReport(BaseModel):
    """One stage of an extraction.

    Attributes:
        stage: `read` (and digest), `decode`, `preprocess`, `encode` (all models together) or `write` (sum and publish).
        seconds: Wall time spent in it, summed over processes.
        share: Of the time in all stages.
        images_per_second: Of one process that did nothing else; None where nothing was measured.
    """

    stage: Stage
    seconds: float
    share: float
    images_per_second: float | None


@dataclass
class Stages:
    """A stopwatch for each stage.

    Attributes:
        images: That were decoded, or failed.
        bytes_read: Of files.
        bytes_written: Of features.
        seconds: By stage.
    """

    images: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(get_args(Stage), 0.0))

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        """Count what happens inside to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def copy(self) -> Stages:
        """As it stands now."""
        return Stages(self.images, self.bytes_read, self.bytes_written, dict(self.seconds))

    @property
    def total(self) -> float:
        """Seconds in all stages."""
        return sum(self.seconds.values())

    @property
    def limit(self) -> Stage | None:
        """The stage that takes longest, None when nothing was measured."""
        return max(self.seconds.items(), key=lambda entry: entry[1])[0] if self.total else None

    def report(self) -> list[StageReport]:
        """One entry a stage, in order; none when nothing was measured."""
        if not self.total:
            return []
        return [
            StageReport(
                stage=stage,
                seconds=seconds,
                share=seconds / self.total,
                images_per_second=self.images / seconds if seconds and self.images else None,
            )
            for stage, seconds in self.seconds.items()
        ]

    @classmethod
    def sum(cls, parts: Iterable[Stages]) -> Stages:
        """Of several processes, or several pieces of work."""
        total = cls()
        for part in parts:
            total.images += part.images
            total.bytes_read += part.bytes_read
            total.bytes_written += part.bytes_written
            for stage, seconds in part.seconds.items():
                total.seconds[stage] += seconds
        return total
