"""A store's files that fail on command: at the n-th operation, always the same way."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar

from featstore.store.files import TEMPORARY, FileInfo, Files
from featstore.store.local_files import LocalFiles, unreadable, unwritable

__all__ = ["Fault", "FaultyFiles", "Operation"]

T = TypeVar("T")
_WRITES = ("put_new", "put", "delete")


class Operation(NamedTuple):
    """One call: the name of the method of `Files`, and the key (or prefix) it was about."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and when.

    Attributes:
        kind: What happens to the operation:
            `fail`: an input/output error instead of it;
            `lose`: it is done, and reported as an input/output error (the answer got lost);
            `tear`: an input/output error half-way through a write, with the partial temporary file left behind (a place that
            shows only whole objects keeps nothing); reads fail;
            `delay`: it is done late;
            `pause`: this process stops itself (SIGSTOP) before it, until somebody sends SIGCONT;
            `kill`: this process kills itself (SIGKILL), half-way through if it is a write.
        at: Which of the operations below, counted from 1.
        operation: Only operations of this name count (`put_new`, `get`, …); any if empty.
        key: Only keys in which this regular expression is found count.
        persistent: Every counted operation from that one on, instead of one.
        seconds: How late `delay` is.
    """

    kind: Literal["fail", "lose", "tear", "delay", "pause", "kill"]
    at: int = 1
    operation: str = ""
    key: str = ""
    persistent: bool = False
    seconds: float = 0.01


class FaultyFiles:
    """Any `Files`, with faults; deterministic, so that the same calls always meet the same fault.

    Faults are counted in each process on its own; pickling starts the counting anew.

    Args:
        inner: The real files.
        faults: What goes wrong.
        capacity: Bytes that can be written before the place is full, None for no limit; deleting gives bytes back.

    Attributes:
        log: Every operation so far, in order.
        capacity: Bytes left; raise it to make room.
    """

    def __init__(self, inner: Files, *faults: Fault, capacity: int | None = None) -> None:
        self.inner = inner
        self.faults = faults
        self.capacity = capacity
        self.log: list[Operation] = []
        self._met = [0] * len(faults)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.inner, self.faults, self.capacity))

    @property
    def location(self) -> str:
        """The address of the real files."""
        return self.inner.location

    @property
    def local(self) -> bool:
        """Whether the real files are local."""
        return self.inner.local

    def where(self, key: str) -> str:
        """The full address of a key."""
        return self.inner.where(key)

    def exists(self, key: str) -> bool:
        """See `Files.exists`."""
        return self._do("exists", key, lambda: self.inner.exists(key))

    def size(self, key: str) -> int | None:
        """See `Files.size`."""
        return self._do("size", key, lambda: self.inner.size(key))

    def get(self, key: str) -> bytes:
        """See `Files.get`."""
        return self._do("get", key, lambda: self.inner.get(key))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Files.get_ranges`."""
        return self._do("get_ranges", key, lambda: self.inner.get_ranges(key, ranges))

    def view(self, key: str) -> memoryview:
        """See `Files.view`."""
        return self._do("view", key, lambda: self.inner.view(key))

    def names(self, prefix: str) -> list[str]:
        """See `Files.names`."""
        return self._do("names", prefix, lambda: self.inner.names(prefix))

    def walk(self, prefix: str = "") -> Iterator[FileInfo]:
        """See `Files.walk`; listed at once, so that it is one operation."""
        return iter(self._do("walk", prefix, lambda: list(self.inner.walk(prefix))))

    def leftovers(self) -> Iterator[FileInfo]:
        """See `Files.leftovers`; listed at once."""
        return iter(self._do("leftovers", "", lambda: list(self.inner.leftovers())))

    def put_new(self, key: str, pieces: Iterable[bytes | memoryview]) -> bool:
        """See `Files.put_new`."""
        data = b"".join(pieces)

        def act() -> bool:
            published = self.inner.put_new(key, [data])
            if published:
                self._use(len(data))
            return published

        self._need(key, data)
        return self._do("put_new", key, act, data)

    def put(self, key: str, data: bytes) -> None:
        """See `Files.put`."""

        def act() -> None:
            self._use(len(data) - (self.inner.size(key) or 0))
            self.inner.put(key, data)

        self._need(key, data)
        self._do("put", key, act, data)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Files.delete`; one operation for each key."""
        for key in keys:
            self._do("delete", key, lambda key=key: self._delete(key))  # type: ignore[misc]

    def _delete(self, key: str) -> None:
        freed = self.inner.size(key) or 0
        self.inner.delete([key])
        self._use(-freed)

    def _do(self, name: str, key: str, act: Callable[[], T], data: bytes = b"") -> T:
        with self._lock:
            self.log.append(Operation(name, key))
            met = [fault for number, fault in enumerate(self.faults) if self._meets(number, fault, name, key)]
        for fault in met:
            if fault.kind == "delay":
                time.sleep(fault.seconds)
            elif fault.kind == "pause":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif fault.kind == "kill":
                self._tear(key, data)
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                if fault.kind == "tear":
                    self._tear(key, data)
                elif fault.kind == "lose":
                    act()
                self._raise(name, key)
        return act()

    def _meets(self, number: int, fault: Fault, name: str, key: str) -> bool:
        if fault.operation not in ("", name) or not re.search(fault.key, key):
            return False
        self._met[number] += 1
        return self._met[number] == fault.at or (fault.persistent and self._met[number] > fault.at)

    def _tear(self, key: str, data: bytes) -> None:
        """Leave what a writer leaves that stops half-way through."""
        inner = self.inner
        while isinstance(inner, FaultyFiles):
            inner = inner.inner
        if data and isinstance(inner, LocalFiles):
            path = inner.path(key).parent / f"{TEMPORARY}torn-{len(self.log)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[: len(data) // 2])

    def _raise(self, name: str, key: str) -> NoReturn:
        error = OSError(errno.EIO, os.strerror(errno.EIO))
        raise (unwritable if name in _WRITES else unreadable)(error, self.where(key)) from error

    def _need(self, key: str, data: bytes) -> None:
        if self.capacity is not None and len(data) > self.capacity:
            self.log.append(Operation("full", key))
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise unwritable(error, self.where(key)) from error

    def _use(self, count: int) -> None:
        if self.capacity is not None:
            self.capacity -= count


def _restore(inner: Files, faults: tuple[Fault, ...], capacity: int | None) -> FaultyFiles:
    return FaultyFiles(inner, *faults, capacity=capacity)
