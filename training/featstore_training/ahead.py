"""Preparing the inputs of later steps while the present one computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(calls: Iterable[Callable[[], T]], workers: int) -> Iterator[T]:
    """Results of the calls in their order, with as many calls under way as there are threads.

    Args:
        calls: What to do; taken from the iterable in the caller's thread.
        workers: Threads; 0 makes each call when its result is asked for.
    """
    if not workers:
        for call in calls:
            yield call()
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-ahead") as pool:
        under_way: deque[Future[T]] = deque()
        try:
            for call in calls:
                under_way.append(pool.submit(call))
                if len(under_way) > workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
