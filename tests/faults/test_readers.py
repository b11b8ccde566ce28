"""Invariants 2 and 3 for those who read while others write, remove, compact and collect garbage."""

import numpy as np
import pytest

from featstore.spaces import Space
from featstore.store import NewRows, Store, collect_garbage, compact, verify
from tests.faults.writers import KEPT


def fill(store):
    dataset = store.dataset("d")
    job = store.plan_features(dataset, "f", Space.named("s", 2), np.dtype("f4"), shard_rows=4)
    for shard in job.pending():
        ids = dataset.ids.take(range(*job.shard_range(shard)))
        job.publish(shard, np.array([[float(text), 1.0] for text in ids], np.float32))
    job.commit({})


def read_while_written(writers, folder, rounds):
    store = Store.init(folder / "store")
    store.create_dataset("d", NewRows(ids=[str(n) for n in range(10)]))
    fill(store)
    stop = folder / "stop"
    readers = [writers.start("read_along", store.location, str(stop)) for _ in range(2)]
    for number in range(rounds):
        first = 100 * (number + 1)
        store.append_rows("d", NewRows(ids=[str(first + n) for n in range(6)]))
        fill(store)
        store.remove_rows("d", [str(first + n) for n in range(3)])
        if number == 0:
            store.remove_rows("d", [str(n) for n in range(KEPT, 10)])
        compact(store, "d")
        collect_garbage(store)
    stop.touch()
    assert [writers.wait(pid) for pid in readers] == [0, 0]
    assert verify(store, full=True).problems == []


def test_readers_while_rows_come_and_go(writers, place):
    read_while_written(writers, place, 6)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_readers_while_rows_come_and_go_for_long(writers, place):
    read_while_written(writers, place, 60)
