"""Shards published in the background are those that would have been published one by one."""

import numpy as np
import pytest

from featstore.errors import NonFiniteError
from featstore.spaces import Space
from featstore.store import NewRows, Store, publisher


class Counting:
    def __init__(self):
        self.rows = 0

    def start(self, task, total, unit, *, done=0): ...

    def advance(self, n):
        self.rows += n

    def note(self, message): ...


def plan(store, rows):
    dataset = store.create_dataset("d", NewRows(ids=[f"{k}" for k in range(rows)]))
    return store.plan_features(dataset, "f", Space.named("x", 3), np.dtype("f4"), shard_rows=8)


def test_every_shard_is_published_and_counted(tmp_path):
    store = Store.init(tmp_path / "s")
    job, values, seen = plan(store, 85), np.random.default_rng(0).normal(size=(85, 3)).astype("f4"), Counting()
    with publisher(job, seen) as publish:
        for shard in job.pending():
            publish(shard, values[slice(*job.shard_range(shard))])
    assert (seen.rows, job.pending()) == (85, [])
    job.commit({})
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(85)), values)


def test_an_error_is_raised_and_the_shards_before_it_stay(tmp_path):
    job = plan(Store.init(tmp_path / "s"), 40)
    with pytest.raises(NonFiniteError), publisher(job) as publish:  # noqa: PT012
        for shard in job.pending():
            publish(shard, np.full((8, 3), np.nan if shard == 1 else 1.0))
    assert 0 not in job.pending()
    assert 1 in job.pending()
    assert 4 in job.pending()


def test_an_error_of_the_caller_waits_for_what_was_taken(tmp_path):
    job = plan(Store.init(tmp_path / "s"), 40)
    with pytest.raises(KeyboardInterrupt), publisher(job) as publish:  # noqa: PT012
        publish(0, np.ones((8, 3)))
        publish(1, np.ones((8, 3)))
        raise KeyboardInterrupt
    assert job.pending() == [2, 3, 4]
