import os

import numpy as np
import pytest

from featstore.spaces import Space
from featstore.store import NewRows, RowFailure, RowStatus, Store, split_dataset

VALUES = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
DIGESTS = np.random.default_rng(1).integers(0, 256, (20, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small store with every kind of file."""
    store = Store.init(tmp_path_factory.mktemp("small") / "store")
    rows = NewRows(ids=[f"c{n % 2}/{n}" for n in range(20)], labels=[f"c{n % 2}" for n in range(20)])
    dataset = store.create_dataset("d", rows)
    split_dataset(store, "d", {"a": 0.5, "b": 0.5}, by="image")
    job = store.plan_features(dataset, "f", Space.named("s", 3), np.dtype("f4"), shard_rows=8)
    status = np.ones(20, np.uint8)
    status[5] = RowStatus.FAILED
    for shard in range(3):
        start, stop = job.shard_range(shard)
        failures = [RowFailure(row=5, id="c1/5", stage="read", error="gone")] if shard == 0 else []
        digests = DIGESTS[start:stop].copy()
        job.publish(shard, VALUES[start:stop], status=status[start:stop], digests=digests, failures=failures)
    job.commit({})
    store.tag("d/f", "live")
    return store


@pytest.fixture
def without_fsync(monkeypatch):
    """Nothing is brought to disk: for tests in which processes die, never the machine."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
