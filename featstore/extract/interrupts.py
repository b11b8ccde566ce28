"""Stopping in an orderly way: the first Ctrl-C lets the current shards finish, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from featstore.progress import Progress

__all__ = ["Interrupts"]


class Interrupts:
    """While it is entered, SIGINT and SIGTERM ask for a stop instead of raising; a second one raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it does nothing.

    Attributes:
        requested: Whether a stop was asked for.
    """

    def __init__(self) -> None:
        self.requested = False
        self._announced = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def announce(self, progress: Progress) -> None:
        """Tell the user once that the stop was heard. Not done in the handler, which may run amid a progress call."""
        if self.requested and not self._announced:
            self._announced = True
            progress.note("stopping when the current shards are finished; interrupt again to stop at once")

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
