"""What commands print: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from featstore.amounts import duration, pace

if TYPE_CHECKING:
    from featstore.progress import Progress

__all__ = ["amount", "out", "print_json", "print_next", "print_table", "progress"]

out = Console(highlight=False, soft_wrap=True)
_PLAIN_EVERY_S = 10.0


def print_json(content: Any) -> None:
    """A result for other programs, on stdout."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(header: list[str], rows: list[list[str]], *, title: str = "", left: int = 1) -> None:
    """A table without frames; the first `left` columns are left-aligned, the others right-aligned."""
    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left", header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*[Text.from_markup(cell) for cell in row])
    Console(highlight=False).print(table)


def print_next(*commands: Sequence[object]) -> None:
    """Commands to go on with, word by word, as they can be pasted."""
    for number, words in enumerate(commands):
        out.print(("      " if number else "next: ") + shlex.join(map(str, words)), markup=False)


def amount(count: int, unit: str) -> str:
    """`1,234 rows`; for one the unit loses its plural: `1 row`, `1 class`, `1 query`."""
    if count != 1:
        return f"{count:,} {unit}"
    for plural, singular in (("ies", "y"), ("sses", "ss"), ("s", "")):
        if unit.endswith(plural):
            return f"1 {unit.removesuffix(plural)}{singular}"
    return f"1 {unit}"


@contextmanager
def progress() -> Iterator[Progress]:
    """A listener that draws bars with rate and remaining time on a terminal, and prints lines now and then elsewhere."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    listener = _Bars(console) if console.is_terminal else _Lines(console)
    try:
        yield listener
    finally:
        listener.close()


class _Lines:
    """Plain lines: at the start of a task, every ten seconds, and at its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task = ""

    def start(self, task: str, total: int, unit: str, *, done: int = 0) -> None:
        self.close()
        self._task, self._total, self._unit = task, total, unit
        self._done = self._first = self._last = done
        self._began = self._said = time.monotonic()
        if done:
            self._console.print(f"{task}: {done:,} of {total:,} {unit} were done before")

    def advance(self, n: int) -> None:
        self._done += n
        if time.monotonic() - self._said > _PLAIN_EVERY_S:
            self._said = time.monotonic()
            self._say()

    def note(self, message: str) -> None:
        self._console.print(f"note: {message}")

    def close(self) -> None:
        if self._task and self._done > max(self._first, self._last):
            self._say()
        self._task = ""

    def _say(self) -> None:
        self._last = self._done
        seconds = max(time.monotonic() - self._began, 1e-6)
        rate = (self._done - self._first) / seconds
        left = f", {duration((self._total - self._done) / rate)} left" if rate and self._done < self._total else ""
        self._console.print(
            f"{self._task}: {self._done:,} of {self._total:,} {self._unit}, {pace(rate)}{left}, {duration(seconds)} so far"
        )


class _Bars:
    """One bar a task; a finished one stays as a line."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[rate]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
        )
        self._bars.start()
        self._current: Any = None

    def start(self, task: str, total: int, unit: str, *, done: int = 0) -> None:
        self._finish()
        self._first = done
        self._began = time.monotonic()
        self._current = self._bars.add_task(task, total=total, completed=done, unit=unit, rate="")

    def advance(self, n: int) -> None:
        if self._current is not None:
            self._bars.advance(self._current, n)
            done = self._bars.tasks[self._current].completed - self._first
            rate = done / max(time.monotonic() - self._began, 1e-6)
            self._bars.update(self._current, rate=pace(rate))

    def note(self, message: str) -> None:
        self._bars.console.print(Text("note: ", style="yellow") + Text(message))

    def close(self) -> None:
        self._finish()
        self._bars.stop()

    def _finish(self) -> None:
        if self._current is not None:
            self._bars.stop_task(self._current)
        self._current = None
