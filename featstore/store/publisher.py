"""Publishing several shards at once: while one waits for the disk, the next is made and summed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.progress import SILENT, Progress
from featstore.store.job import FeatureJob
from featstore.store.records import RowFailure

__all__ = ["Publish", "publisher"]

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
def publisher(job: FeatureJob, progress: Progress = SILENT) -> Iterator[Publish]:
    """Publish the shards of a job in the background, at most two at once.

    Leaving the block waits for all of them. An error of one is raised at the next call or at the end; shards that were
    taken before are finished first, so an interrupt loses none of them.

    Args:
        job: The job.
        progress: Advanced by the rows of each shard once it is published.

    Example:
        >>> with publisher(job) as publish:  # doctest: +SKIP
        ...     for shard in job.pending():
        ...         publish(shard, features_of(shard))
    """
    under_way: deque[tuple[int, Future[bool]]] = deque()

    def finish() -> None:
        shard, future = under_way.popleft()
        future.result()
        start, stop = job.shard_range(shard)
        progress.advance(stop - start)

    def publish(shard: int, features: NDArray[Any], **rest: Any) -> None:
        while len(under_way) >= _AT_ONCE:
            finish()
        under_way.append((shard, pool.submit(job.publish, shard, features, **rest)))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="featstore-publish") as pool:
        yield publish
        while under_way:
            finish()
