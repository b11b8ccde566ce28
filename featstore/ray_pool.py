"""Work divided among Ray actors: a lost one is replaced, and what it was doing is done again."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, TypeVar

from featstore.errors import FeatstoreError, MissingExtraError, as_text, from_text

__all__ = ["Engine", "Tell", "ray_map"]

Engine = Literal["local", "ray"]
Tell = Callable[[Any], None]
"""What a task is given to say how far it is."""

_POLL_SECONDS = 0.2
_LIVES = 2  # a task may lose its worker once; the second time the cause is in the task

W = TypeVar("W")
T = TypeVar("T")
R = TypeVar("R")


def ray_map(
    prepare: Callable[[W], Callable[[T, Tell], R]],
    work: W,
    tasks: Sequence[T],
    *,
    workers: int | None,
    gpus: float = 0.0,
    stopped: Callable[[], bool] = lambda: False,
    waiting: Callable[[], None] = lambda: None,
    heard: Callable[[int, Any], None] | None = None,
) -> Generator[tuple[int, R], None, None]:
    """Do tasks in actors of one CPU each, on the cluster that `RAY_ADDRESS` names, else on this machine.

    Every actor prepares itself once and then does one task at a time. Whatever it does has to bear being done twice.

    Args:
        prepare: Called in every actor; a function of a module that the cluster has too.
        work: Its argument; sent to the cluster once.
        tasks: What is to be done.
        workers: Actors; None takes as many as the cluster has CPUs (or GPUs) for.
        gpus: Of each actor; a fraction lets several share one.
        stopped: Asked before a task is begun; those under way are finished.
        waiting: Called while tasks are under way.
        heard: Called with the number of a task and each thing that it told, before its result comes; a task that is done a
            second time tells all again. None lets nothing be told.

    Whoever may stop before the last result closes the generator: until then its actors are held, and stdout is stderr.

    Yields:
        (number of the task, its result), in the order in which they are finished; not all of them after a stop.

    Raises:
        MissingExtraError: Ray is not installed.
        FeatstoreError: a task failed, or lost its worker twice.
    """
    ray = _connected(workers)
    count = min(len(tasks), workers or _room(ray, gpus))
    actor_class = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_Actor)
    argument = ray.put((prepare, work))
    left, deaths = deque(range(len(tasks))), Counter[int]()
    under_way: dict[Any, tuple[Any, int]] = {}
    spare: list[Any] = []
    words = _Words() if heard else None
    # Ray says on stdout that a worker died, where a command's result belongs
    with contextlib.redirect_stdout(sys.stderr):
        try:
            while under_way or (left and not stopped()):
                while left and len(under_way) < count and not stopped():
                    actor = spare.pop() if spare else actor_class.remote(argument)
                    number = left.popleft()
                    under_way[actor.do.remote(number, tasks[number], words)] = actor, number
                ready, _ = ray.wait(list(under_way), timeout=_POLL_SECONDS)
                waiting()
                if heard and words:
                    for number, word in words.take():
                        heard(number, word)
                for reference in ready:
                    actor, number = under_way.pop(reference)
                    try:
                        error, result = ray.get(reference)
                    except ray.exceptions.RayError as lost:
                        ray.kill(actor)
                        deaths[number] += 1
                        if deaths[number] == _LIVES:
                            raise _died(lost) from lost
                        left.append(number)
                        continue
                    if error is not None:
                        raise from_text(*error)
                    spare.append(actor)
                    yield number, result
        finally:
            for actor in [*spare, *(actor for actor, _ in under_way.values())]:
                ray.kill(actor)
            if words:
                words.close()


class _Words:
    """What tasks tell, on its way; it is not worth an error where the machine that keeps it is lost."""

    def __init__(self) -> None:
        from ray.util.queue import Queue

        self._queue = Queue(actor_options={"num_cpus": 0})

    def put(self, number: int, word: Any) -> None:
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            self._queue.put_nowait((number, word))

    def take(self) -> list[tuple[int, Any]]:
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            found: list[tuple[int, Any]] = self._queue.get_nowait_batch(self._queue.size())
            return found
        return []

    def close(self) -> None:
        self._queue.shutdown(force=True)


class _Actor:
    """Errors come back as text: some have constructors that unpickling cannot call."""

    def __init__(self, argument: tuple[Callable[[Any], Callable[[Any, Tell], Any]], Any]) -> None:
        self._argument = argument
        self._act: Callable[[Any, Tell], Any] | None = None

    def do(self, number: int, task: Any, words: _Words | None) -> tuple[tuple[str, str, str] | None, Any]:
        try:
            if self._act is None:
                prepare, work = self._argument
                self._act = prepare(work)
            return None, self._act(task, lambda word: words.put(number, word) if words else None)
        except FeatstoreError as error:
            return as_text(error), None
        except Exception:  # noqa: BLE001 - whatever it is, the driver must hear of it
            text = traceback.format_exc(limit=-4)
            return ("FeatstoreError", f"a Ray worker failed:\n{text}", "finished shards stay; this is a bug"), None


def _connected(workers: int | None) -> Any:
    """Ray, connected to a cluster; the connection stays until the process ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", "--engine ray") from None
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address := os.environ.get("RAY_ADDRESS"):
            ray.init(address=address, **quiet)
        else:
            cores = len(os.sched_getaffinity(0))
            ray.init(address="local", num_cpus=max(cores, workers or 1), include_dashboard=False, **quiet)
    return ray


def _room(ray: Any, gpus: float) -> int:
    """How many actors the cluster has room for."""
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 1))
    return max(1, min(cpus, int(resources.get("GPU", 0) / gpus)) if gpus else cpus)


def _died(error: Exception) -> FeatstoreError:
    reason = str(error).strip().partition("\n")[0]
    return FeatstoreError(
        f"two Ray workers died one after the other on the same piece of work: {reason}",
        hint=(
            "finished shards stay. If memory ran out, use fewer --workers or a smaller --batch; "
            "--engine local --workers 1 shows where it happens"
        ),
    )
