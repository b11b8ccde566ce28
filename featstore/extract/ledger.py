"""Counting what was tried and what failed, over all workers, and stopping when too much fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from featstore.errors import BadInputError
from featstore.extract.pipeline import Tally
from featstore.extract.stages import Stages
from featstore.progress import Progress

__all__ = ["Ledger"]

_MIN_TRIED = 20  # a fraction of fewer images says nothing


class Ledger:
    """Turns tallies of units into progress, and into an error when the failures exceed their budget.

    Args:
        units: How many there are.
        max_failures: Largest fraction of images tried that may fail.
        progress: Advanced by each image once, also when a unit is done a second time after a worker died.
        before: Images that finished shards tried, and how many of them failed: a run that is resumed stops where one that was
            never interrupted would.
    """

    def __init__(
        self, units: int, max_failures: float, progress: Progress, *, before: tuple[int, int] = (0, 0)
    ) -> None:
        self._tallies: list[Tally] = [Tally(0, 0)] * units
        self._max_failures = max_failures
        self._progress = progress
        self.tried, self.failed = before
        self._examples: list[str] = []
        self._room: int | None = None

    @property
    def spared(self) -> int:
        """Rows that needed neither decoding nor encoding."""
        return sum(tally.spared for tally in self._tallies)

    @property
    def stages(self) -> Stages:
        """Where the time of all workers went."""
        return Stages.sum(tally.stages for tally in self._tallies)

    def copied(self, job: int) -> Counter[str]:
        """Rows that a job copied instead of encoding them, by the set they came from."""
        return sum((Counter(tally.copied.get(job, {})) for tally in self._tallies), Counter[str]())

    def update(self, unit: int, tally: Tally) -> None:
        """Take over the tally of a unit so far.

        Raises:
            BadInputError: too many images failed.
        """
        before = self._tallies[unit]
        if tally.tried < before.tried:
            return  # done a second time, after a worker died
        self._tallies[unit] = tally
        if tally.room is not None and (self._room is None or tally.room < self._room):
            self._room = tally.room
            self._progress.note(
                f"memory ran out: {tally.room} images at once from now on; --batch {tally.room} begins so"
            )
        if tally.tried == before.tried:
            return
        self.tried += tally.tried - before.tried
        self.failed += tally.failed - before.failed
        if tally.example and len(self._examples) < 3 and tally.example not in self._examples:
            self._examples.append(tally.example)
        self._progress.advance(tally.tried - before.tried)
        if self.tried >= _MIN_TRIED and self.failed > self._max_failures * self.tried:
            raise _too_many(self.failed, self.tried, self._max_failures, self._examples)


def _too_many(failed: int, tried: int, limit: float, examples: Sequence[str]) -> BadInputError:
    shown = f"; for example {'; '.join(examples)}" if examples else ""
    return BadInputError(
        f"{failed} of {tried} images tried failed, more than {limit:.0%}{shown}",
        hint=(
            "finished shards stay in the store. Put the files right, or allow more with "
            f"--max-failures {min(1.0, round(1.5 * failed / tried + 0.05, 2)):g}, and run the same command again"
        ),
    )
