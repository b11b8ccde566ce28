"""How long work tells its caller how far it is, without knowing who listens (the CLI draws it with rich)."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SILENT", "Named", "Progress"]


class Progress(Protocol):
    """A listener for one task after another. Calls come from one thread."""

    def start(self, task: str, total: int, unit: str, *, done: int = 0) -> None:
        """A task begins: `total` units in all, of which `done` were finished by an earlier run."""

    def advance(self, n: int) -> None:
        """`n` more units are finished."""

    def note(self, message: str) -> None:
        """Something the user should know that is not an error (rows skipped, a cache reused)."""


class _Silent:
    def start(self, task: str, total: int, unit: str, *, done: int = 0) -> None: ...

    def advance(self, n: int) -> None: ...

    def note(self, message: str) -> None: ...


SILENT: Progress = _Silent()


class Named:
    """Passes on the tasks of a step under the name of the step, and keeps its notes to itself.

    Args:
        progress: Who listens.
        name: Of the step.
    """

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def start(self, task: str, total: int, unit: str, *, done: int = 0) -> None:
        """A task of the step."""
        self._progress.start(f"{self._name}: {task}", total, unit, done=done)

    def advance(self, n: int) -> None:
        """Work done."""
        self._progress.advance(n)

    def note(self, message: str) -> None:
        """Notes of a step stand in what it leaves behind."""
