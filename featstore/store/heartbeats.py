"""Who is at work on a plan: every writer leaves a small file beside it and renews that while it publishes.

Heartbeats carry no data and nothing is decided by them alone: commits are safe without. They tell people who shares their
work, keep `compact` from beginning under a running job, and keep `collect_garbage` away from shards that are not committed yet.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from featstore.errors import FeatstoreError
from featstore.store.files import Files
from featstore.store.records import dump, fetch, utc_now

__all__ = ["LIVE_S", "Writer", "beat", "place_time", "writers"]

RENEW_S = 30.0
# a writer whose heartbeat is older is taken for dead: a shard is planned to take two minutes
LIVE_S = 600.0
_CLOCK = "clock"

_last_beat: dict[tuple[str, str, int], float] = {}


class Writer(NamedTuple):
    """A process at work on a plan.

    Attributes:
        host: Name of its machine.
        pid: Its number there.
        started: When it first reported on this plan, UTC, ISO 8601; empty if its file cannot be read.
        age: Seconds since it last reported, by the clock of the place.
        here: Whether it is this process.
    """

    host: str
    pid: int
    started: str
    age: float
    here: bool

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (last seen {max(self.age, 0):.0f} s ago)"


class _Heartbeat(BaseModel):
    host: str
    pid: int
    machine: str
    started: str


def beat(files: Files, plan: str, *, now: bool = False) -> bool:
    """Report that this process is at work on the plan under a key, if it did not within the last 30 s; whether it did now.

    Args:
        files: The store's files.
        plan: Key of the plan's folder.
        now: Report in any case.
    """
    mark = (files.location, plan, os.getpid())
    said = _last_beat.get(mark)
    if said is not None and not now and time.monotonic() - said < RENEW_S:
        return False
    host = socket.gethostname() or "unknown"
    name = re.sub(r"[^a-z0-9-]", "-", host.lower())[:60].strip("-") or "host"
    heartbeat = _Heartbeat(host=host, pid=os.getpid(), machine=_machine(), started=utc_now())
    files.put(f"{plan}/alive/{name}-{os.getpid()}.json", dump(heartbeat))
    _last_beat[mark] = time.monotonic()
    return True


def writers(files: Files, plan: str, *, now: float | None = None) -> list[Writer]:
    """The processes at work on a plan: their heartbeat is younger than ten minutes, and they are not known to be dead.

    Args:
        files: The store's files.
        plan: Key of the plan's folder.
        now: The time by the clock of the place (`place_time`); None takes this machine's.
    """
    now = time.time() if now is None else now
    found = []
    for info in files.walk(f"{plan}/alive"):
        age = now - info.modified
        if age < LIVE_S and (writer := _writer(files, info.key, age)) is not None:
            found.append(writer)
    return sorted(found)


def place_time(files: Files) -> float:
    """The time by the clock of the place, seconds since 1970: that of a file written now, as clocks of machines differ.

    A place that cannot be written to has no writers either; then it is this machine's time.
    """
    key = f"{_CLOCK}/{secrets.token_hex(8)}"
    try:
        files.put(key, b"")
        times = [info.modified for info in files.walk(_CLOCK) if info.key == key]
        files.delete([key])
    except FeatstoreError:
        times = []
    return times[0] if times else time.time()


def _writer(files: Files, key: str, age: float) -> Writer | None:
    """The writer of a heartbeat; None if it is a process of this machine that has ended."""
    try:
        heartbeat = fetch(files, _Heartbeat, key)
    except FeatstoreError:  # half replaced or damaged: somebody is there
        host, _, pid = key.rpartition("/")[2].removesuffix(".json").rpartition("-")
        return Writer(host, int(pid) if pid.isdigit() else 0, "", age, here=False)
    if heartbeat.machine == _machine() and not Path(f"/proc/{heartbeat.pid}").exists():
        return None
    here = heartbeat.machine == _machine() and heartbeat.pid == os.getpid()
    return Writer(heartbeat.host, heartbeat.pid, heartbeat.started, age, here)


@cache
def _machine() -> str:
    """Within what a process number means one process: this start of this machine, this namespace of processes."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return secrets.token_hex(16)  # nothing is known of other processes then
