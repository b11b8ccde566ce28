"""Several shards at once: while one waits for the disk, the next is made and summed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.progress import SILENT, Progress
from featstore.store.job import FeatureJob
from featstore.store.records import RowFailure

__all__ = ["in_background", "publisher"]

_AT_ONCE = 2


class Publish(Protocol):
    """Takes a shard as `FeatureJob.publish` does and returns before it is published; the arrays must not change any more."""

    def __call__(
        self,
        shard: int,
        features: NDArray[Any],
        *,
        status: NDArray[np.uint8] | None = None,
        digests: NDArray[np.uint8] | None = None,
        failures: Sequence[RowFailure] = (),
    ) -> bool | None:
        """See `FeatureJob.publish`."""


@contextmanager
def in_background(
    job: FeatureJob, progress: Progress = SILENT, *, at_once: int = _AT_ONCE
) -> Iterator[Callable[[int, Callable[[], object]], None]]:
    """Work on the shards of a job in threads: the block gets a function that takes a shard and what publishes it.

    Leaving the block waits for all of them. An error of one is raised at the next call or at the end; shards that were
    taken before are finished first, so an interrupt loses none of them.

    Args:
        job: The job.
        progress: Advanced by the rows of each shard once it is published.
        at_once: How many threads; a call with more shards under way waits for the first of them.
    """
    under_way: deque[tuple[int, Future[object]]] = deque()

    def finish() -> None:
        shard, future = under_way.popleft()
        future.result()
        start, stop = job.shard_range(shard)
        progress.advance(stop - start)

    def begin(shard: int, work: Callable[[], object]) -> None:
        while len(under_way) >= at_once:
            finish()
        under_way.append((shard, pool.submit(work)))

    with ThreadPoolExecutor(at_once, thread_name_prefix="featstore-publish") as pool:
        yield begin
        while under_way:
            finish()


@contextmanager
def publisher(job: FeatureJob, progress: Progress = SILENT) -> Iterator[Publish]:
    """Publish the shards of a job in the background, at most two at once; see `in_background`.

    Args:
        job: The job.
        progress: Advanced by the rows of each shard once it is published.

    Example:
        >>> with publisher(job) as publish:  # doctest: +SKIP
        ...     for shard in job.pending():
        ...         publish(shard, features_of(shard))
    """
    with in_background(job, progress) as begin:

        def publish(shard: int, features: NDArray[Any], **rest: Any) -> None:
            begin(shard, partial(job.publish, shard, features, **rest))

        yield publish
