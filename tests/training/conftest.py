"""A small store with an old and a new encoder's features of the same rows."""

import numpy as np
import pytest

from featstore.spaces import Space
from featstore.store import NewRows, Store

CLASSES, EACH = 8, 20
OLD, NEW = 12, 20


def write(store, dataset, name, features, space, dtype=np.float32):
    job = store.plan_features(dataset, name, space, np.dtype(dtype), shard_rows=64)
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        job.publish(shard, features[start:stop].astype(dtype))
    return job.commit({})


@pytest.fixture
def store(tmp_path):
    return toy_store(tmp_path / "store")


def toy_store(folder, each=EACH):
    """Classes are directions; the old encoder sees them through more noise than the new one."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), each)
    draw.shuffle(labels)
    hidden = draw.normal(size=(CLASSES, 16))[labels] + 0.9 * draw.normal(size=(len(labels), 16))
    old = hidden @ draw.normal(size=(16, OLD)) + 4 * draw.normal(size=(len(labels), OLD))
    new = hidden @ draw.normal(size=(16, NEW)) + 1 * draw.normal(size=(len(labels), NEW))
    store = Store.init(folder)
    texts = [f"class {label}" for label in labels.tolist()]
    texts[0] = texts[1] = None
    part = np.where(np.arange(len(labels)) % 4 == 3, "test", "train").tolist()
    dataset = store.create_dataset("toy", NewRows([f"r{n}" for n in range(len(labels))], texts, {"split": part}))
    write(store, dataset, "old", old, Space.named("old", OLD))
    write(store, dataset, "new", new, Space.named("new", NEW))
    return store
