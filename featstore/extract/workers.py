"""The local engine: worker processes with one thread each, which share nothing but the store.

Each worker owns every n-th unit. The parent alone talks to the user: it draws progress, notices workers that die, and hears
Ctrl-C. A worker lives no longer than its parent: it ends as soon as the pipe between them closes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from featstore.errors import FeatstoreError, as_text, from_text
from featstore.extract.interrupts import Interrupts
from featstore.extract.ledger import Ledger
from featstore.extract.listing import Places
from featstore.extract.outputs import Output, Target, load_outputs
from featstore.extract.pipeline import Tally, run_unit
from featstore.extract.plan import Unit
from featstore.extract.process import keep_memory, single_thread
from featstore.progress import Progress
from featstore.sources import Source
from featstore.spaces import require_same
from featstore.store import DigestIndex, FeatureJob, Store
from featstore.store.names import is_view
from featstore.store.policies import ZeroRows

__all__ = ["Work", "run_here", "run_workers", "workbench"]

_POLL_SECONDS = 0.2
_LIVES = 2  # a worker may die once (a passing shortage of memory); the second time the cause is in the work
_JOIN_SECONDS = 10.0


@dataclass(frozen=True)
class Work:
    """What every worker needs; picklable.

    Attributes:
        store: The store.
        dataset: Name and version of the dataset.
        source: Where the images are.
        targets: What each job makes.
        jobs: What is filled.
        batch: Images an encoder sees at once.
        zero_rows: What becomes of features that are zero throughout.
    """

    store: Store
    dataset: tuple[str, int]
    source: Source
    targets: tuple[Target, ...]
    jobs: tuple[FeatureJob, ...]
    batch: int
    zero_rows: ZeroRows


@dataclass
class _Slot:
    """A worker's place: the units it still owes, and the process that works on them."""

    units: dict[int, Unit]
    lives: int = _LIVES
    process: SpawnProcess | None = None
    pipe: Connection | None = None
    closed: bool = False
    begun: bool = False
    finished: bool = False
    error: tuple[str, str, str] | None = None


def run_here(
    work: Work, outputs: Sequence[Output], units: Sequence[Unit], ledger: Ledger, stop: Interrupts, progress: Progress
) -> None:
    """Do all units in this process, one after another.

    Raises:
        KeyboardInterrupt: a stop was asked for and units are left.
    """
    places = Places(work.store.dataset(*work.dataset))
    indexes = _indexes(work)
    with single_thread():
        for number, unit in enumerate(units):
            if stop.requested:
                raise KeyboardInterrupt

            def on_batch(tally: Tally, number: int = number) -> None:
                stop.announce(progress)
                ledger.update(number, tally)

            run_unit(unit, work.jobs, outputs, indexes, places, work.source, work.batch, work.zero_rows, on_batch)


def run_workers(
    work: Work, units: Sequence[Unit], workers: int, ledger: Ledger, stop: Interrupts, progress: Progress
) -> None:
    """Divide the units among worker processes and wait for them.

    Raises:
        KeyboardInterrupt: a stop was asked for and units are left.
        FeatstoreError: a worker failed, or died twice.
    """
    slots = [
        _Slot({number: unit for number, unit in enumerate(units) if number % workers == k}) for k in range(workers)
    ]
    told = False
    try:
        for slot in slots:
            _start(slot, work)
        while any(slot.process is not None for slot in slots):
            _wait(slots)
            stop.announce(progress)
            if stop.requested and not told:
                told = True
                _tell_to_stop(slots)
            for slot in slots:
                _hear(slot, ledger)
                _check(slot, work, stop)
    finally:
        _end(slots)
    if any(slot.units for slot in slots):
        raise KeyboardInterrupt


def _indexes(work: Work) -> list[DigestIndex | None]:
    """What the store has of each job's space. A view is never copied: its inputs are augmented before they are encoded."""
    return [None if is_view(job.plan.name) else DigestIndex(work.store, job.space) for job in work.jobs]


def _start(slot: _Slot, work: Work) -> None:
    # spawn, because a forked torch may hang, and because a spawned process inherits no end of another worker's pipe
    context = multiprocessing.get_context("spawn")
    if slot.pipe is not None:
        slot.pipe.close()
    slot.pipe, theirs = context.Pipe()
    slot.closed = slot.begun = False
    slot.process = context.Process(target=_worker, args=(work, dict(slot.units), theirs), daemon=True)
    # Ctrl-C must not reach a worker that is still importing, so it starts with SIGINT blocked; the tracker is started
    # first because its own start would undo the block
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        slot.process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()


def _wait(slots: Sequence[_Slot]) -> None:
    watched: list[Any] = [slot.pipe for slot in slots if slot.process is not None and not slot.closed]
    watched += [slot.process.sentinel for slot in slots if slot.process is not None]
    wait(watched, timeout=_POLL_SECONDS)


def _tell_to_stop(slots: Sequence[_Slot]) -> None:
    for slot in slots:
        if slot.process is not None and not slot.begun:
            slot.process.kill()  # still loading torch and its encoders: there is no shard to finish
        elif slot.process is not None and slot.pipe is not None:
            try:
                slot.pipe.send("stop")
            except OSError:
                continue  # it has just ended by itself


def _hear(slot: _Slot, ledger: Ledger) -> None:
    """Take in everything a worker has sent."""
    if slot.process is None or slot.pipe is None or slot.closed:
        return
    try:
        while slot.pipe.poll():
            kind, content = slot.pipe.recv()
            slot.begun = True
            if kind == "tally":
                number, tally = content
                ledger.update(number, tally)
            elif kind == "done":
                slot.units.pop(content, None)
            elif kind == "finished":
                slot.finished = True
            else:
                slot.error = content
    except (EOFError, OSError):
        slot.closed = True  # `_check` sees whether that was in order


def _check(slot: _Slot, work: Work, stop: Interrupts) -> None:
    """Retire a worker that has ended; replace it once if it died."""
    if slot.error is not None:
        raise from_text(*slot.error)
    if slot.process is None or (slot.process.is_alive() and not slot.finished):
        return
    if not (slot.finished or slot.closed):
        return  # what it wrote before it ended is heard first
    slot.process.join(_JOIN_SECONDS)
    code = slot.process.exitcode
    slot.process = None
    if slot.finished or stop.requested or not slot.units:
        return
    slot.lives -= 1
    if slot.lives == 0:
        unit = next(iter(slot.units.values()))
        raise FeatstoreError(
            f"a worker process died twice ({_cause(code)}) at rows {unit.start} to {unit.stop - 1}",
            hint=(
                "finished shards stay. If memory ran out, use fewer --workers or a smaller --batch; "
                "--workers 1 shows where it happens"
            ),
        )
    _start(slot, work)


def _end(slots: Sequence[_Slot]) -> None:
    for slot in slots:
        if slot.process is not None and slot.process.is_alive():
            slot.process.kill()  # a shard is published as a whole or not at all, so there is nothing to tidy up
    for slot in slots:
        if slot.process is not None:
            slot.process.join(_JOIN_SECONDS)
        if slot.pipe is not None:
            slot.pipe.close()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


# --- in the worker process ---------------------------------------------------------------------------------------------


def _worker(work: Work, units: dict[int, Unit], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    stop = threading.Event()
    threading.Thread(target=_listen, args=(pipe, stop), daemon=True).start()
    try:
        torch.set_num_threads(1)
        keep_memory()
        _do(work, units, pipe, stop)
    except FeatstoreError as error:
        pipe.send(("error", as_text(error)))
    except BrokenPipeError:
        os._exit(1)  # the parent is gone
    except Exception:  # noqa: BLE001 - whatever it is, the parent must hear of it
        text = traceback.format_exc(limit=-4)
        pipe.send(("error", ("FeatstoreError", f"a worker failed:\n{text}", "finished shards stay; this is a bug")))


def workbench(work: Work) -> Callable[[Unit, Callable[[Tally], None]], None]:
    """Load the encoders in a worker; what is returned does one unit and tells after each batch how far it is.

    Raises:
        SpaceMismatchError: an encoder is not the one that the work was planned with.
    """
    places = Places(work.store.dataset(*work.dataset))
    indexes = _indexes(work)
    names = [job.plan.name for job in work.jobs]
    outputs = list(load_outputs(dict(zip(names, work.targets, strict=True)), work.batch).values())
    for job, output, target in zip(work.jobs, outputs, work.targets, strict=True):
        require_same(
            job.space,
            output.space,
            what=f"{target.uri} became another encoder in a worker process",
            hint="its factory must give the same weights every time; seed it, or load them from a file",
        )

    def do(unit: Unit, on_batch: Callable[[Tally], None]) -> None:
        run_unit(unit, work.jobs, outputs, indexes, places, work.source, work.batch, work.zero_rows, on_batch)

    return do


def _do(work: Work, units: dict[int, Unit], pipe: Connection, stop: threading.Event) -> None:
    fill = workbench(work)
    for number, unit in units.items():
        if stop.is_set():
            break

        def on_batch(tally: Tally, number: int = number) -> None:
            pipe.send(("tally", (number, tally)))

        fill(unit, on_batch)
        pipe.send(("done", number))
    pipe.send(("finished", None))


def _listen(pipe: Connection, stop: threading.Event) -> None:
    """Wait for a word from the parent. The end of the pipe means that it died, and then nobody needs this process."""
    try:
        while True:
            pipe.recv()
            stop.set()
    except (EOFError, OSError):
        os._exit(1)
