"""Makes the small store that every later featstore must read: `python -m tests.golden.make` writes `tests/golden/format-<n>`.

Run it once for a format and commit what it writes; a store that is committed is never made again.
"""

import json
import shutil
import socket
from datetime import timedelta
from pathlib import Path

import numpy as np

from featstore.spaces import Space
from featstore.store import NewRows, RowFailure, RowStatus, Store, collect_garbage, compact, heartbeats
from featstore.store.records import FORMAT

HERE = Path(__file__).parent
GOLDEN = HERE / f"format-{FORMAT}"
EXPECTED = HERE / f"format-{FORMAT}.json"
OLD, NEW = Space.named("old", 4), Space.named("new", 4)
IDS = ["cats/e\u0301.png", "../up", "/abs", "back\\slash", "line\nfeed", "日本/語.png", "x" * 200, *"abcdefghi"]
LATER = ["later/1", "later/2", "later/3"]
FAILED, REMOVED, REMOVED_LATER = "c", ["back\\slash", "d"], ["later/2"]


def value(space, id_):
    """The feature of an id: exact in every dtype."""
    return (np.arange(space.width) + (sum(id_.encode()) % 61) / 4).tolist()


def label(id_):
    return None if id_ == "a" else f"class {len(id_) % 3}"


def add(store, name, space, dtype):
    """Fill a feature set; one row failed, one has no known input."""
    dataset = store.dataset("d")
    job = store.plan_features(dataset, name, space, np.dtype(dtype), shard_rows=8)
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        ids = dataset.ids.take(range(start, stop))
        status = np.array([RowStatus.FAILED if i == FAILED else RowStatus.VALID for i in ids], np.uint8)
        digests = np.array([[0 if i == "e" else 1 + sum(i.encode()) % 200] * 16 for i in ids], np.uint8)
        failures = [
            RowFailure(row=start + k, id=i, stage="read", error="gone") for k, i in enumerate(ids) if i == FAILED
        ]
        job.publish(
            shard, np.array([value(space, i) for i in ids], dtype), status=status, digests=digests, failures=failures
        )
    job.commit({"made by": "tests.golden.make"})


def batch(ids):
    numbers = np.arange(len(ids))
    return NewRows(
        ids, [label(i) for i in ids], {"size": numbers, "weight": numbers / 2, "camera": [f"k{n % 2}" for n in numbers]}
    )


def make(folder):
    """Every kind of file: rows, columns added later, removals, two layouts, several segments, tags, failures, indexes."""
    store = Store.init(folder)
    store.create_dataset("d", batch(IDS), root="/pictures")
    add(store, "old", OLD, "float16")
    add(store, "new", NEW, "float32")
    add(store, "wide", NEW, "float64")
    store.tag("d/old", "live")
    store.remove_rows("d", REMOVED)
    compact(store, "d")
    store.append_rows("d", batch(LATER))
    for name, space, dtype in (("old", OLD, "float16"), ("new", NEW, "float32")):
        add(store, name, space, dtype)
    store.add_columns("d", {"split": ["test" if n % 2 else "train" for n in range(store.dataset("d").rows)]})
    store.tag("d/old", "live")
    store.tag("d/old@1", "first")
    store.remove_rows("d", REMOVED_LATER)
    store.declare("d/old", "d/new", note="trained against each other")
    unfinished = store.plan_features(store.dataset("d"), "half", NEW, np.dtype("f4"), shard_rows=8)
    unfinished.publish(0, np.ones((8, 4), np.float32))
    collect_garbage(store, grace=timedelta(days=1))
    return store


def expected():
    """What a reader must find, from what was written and not from what is read."""
    first = ["cats/é.png", *IDS[1:]]
    ids = [i for i in [*first, *LATER] if i not in REMOVED]
    live = [i for i in ids if i not in REMOVED_LATER]
    size = {i: n for batch in (first, LATER) for n, i in enumerate(batch)}
    names = {"old": OLD, "new": NEW}
    return {
        "live": live,
        "labels": {i: label(IDS[0] if i == first[0] else i) for i in live},
        "size": {i: size[i] for i in live},
        "weight": {i: size[i] / 2 for i in live},
        "camera": {i: f"k{size[i] % 2}" for i in live},
        "split": {i: "test" if ids.index(i) % 2 else "train" for i in live},
        "features": {name: {i: value(space, i) for i in live if i != FAILED} for name, space in names.items()},
        "wide": {i: value(NEW, i) for i in live if i != FAILED and i not in LATER},
        "failed": [FAILED],
        "spaces": {name: space.digest for name, space in names.items()},
        "dtypes": {"old": "float16", "new": "float32", "wide": "float64"},
    }


if __name__ == "__main__":
    # no machine is known by what goes into the repository
    socket.gethostname = lambda: "golden"
    heartbeats._machine = lambda: "golden"
    shutil.rmtree(GOLDEN, ignore_errors=True)
    make(GOLDEN)
    EXPECTED.write_text(json.dumps(expected(), indent=1) + "\n", encoding="utf-8")
