"""A store with two sets over forty rows, of which some are removed."""

import numpy as np

from featstore.spaces import Space
from featstore.store import NewRows, Store, compact, verify

SPACE = Space.named("s", 4)
IDS = [f"somebody/picture-{n:04d}.jpg" for n in range(40)]
VALUES = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
GONE = [3, 17, 18, 39]
LEFT = [n for n in range(40) if n not in GONE]


def two_sets(folder):
    """Set g holds twice what f holds."""
    store = Store.init(folder)
    store.create_dataset("d", NewRows(ids=IDS, labels=[f"label {n}" for n in range(40)]))
    fill(store, "f", VALUES)
    fill(store, "g", VALUES * 2)
    return store


def fill(store, name, values, *, upto=None):
    """Add the rows that a set lacks; the job, which is not committed where only its first shards are published."""
    job = store.plan_features(store.dataset("d"), name, SPACE, np.dtype("f4"), shard_rows=8)
    for shard in list(range(job.n_shards))[:upto]:
        start, stop = job.shard_range(shard)
        job.publish(shard, values[start - job.start : stop - job.start])
    if upto is None:
        job.commit({"made by": "test"})
    return job


def leave_out(store):
    """Remove rows and compact; the old layout stays."""
    store.remove_rows("d", [IDS[n] for n in GONE])
    compact(store, "d")


def check(store):
    """Whatever was left out: the others are there and sound."""
    for name, factor in (("f", 1), ("g", 2)):
        features = store.features(f"d/{name}")
        np.testing.assert_array_equal(features.take_ids([IDS[n] for n in LEFT]), VALUES[LEFT] * factor)
    assert verify(store, full=True).problems == []
