"""Small stores for tests."""

import numpy as np

from featstore.spaces import Space
from featstore.store import NewRows, RowStatus, Store


def labelled_store(folder, dataset, labels, *, columns=None):
    """A store with one dataset: row n has id `n.jpg` and class `class LABEL`."""
    store = Store.init(folder)
    ids, names = [f"{row}.jpg" for row in range(len(labels))], [f"class {label}" for label in labels]
    store.create_dataset(dataset, NewRows(ids, names, columns or {}))
    return store


def add_set(
    store, dataset, name, features, *, space=None, failed=(), status=None, digests=None, shard_rows=64, provenance=None
):
    """Commit features [rows, D] as a set, or those rows of them that it lacks; its space is named like it unless one is given.

    `failed` lists rows without a feature; `status` [rows] says it of every row.
    """
    space = space or Space.named(name, features.shape[1])
    job = store.plan_features(store.dataset(dataset), name, space, features.dtype, shard_rows=shard_rows)
    status = np.full(len(features), RowStatus.VALID, np.uint8) if status is None else status.copy()
    status[list(failed)] = RowStatus.FAILED
    for shard in job.pending():
        rows = slice(*job.shard_range(shard))
        job.publish(shard, features[rows], status=status[rows], digests=None if digests is None else digests[rows])
    return job.commit(provenance or {"made by": "a test"})
