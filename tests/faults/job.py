"""A small job that uses every way of writing to a store; running it again finishes what is missing."""

from collections.abc import Callable

import numpy as np

from featstore.spaces import Space
from featstore.store import NewRows, RowFailure, RowStatus, Store

WIDTH = 3
FIRST, ALL = 20, 26  # rows of the first batch, and with the second
FAILED = 5
REMOVED = ["7/日本.png", "22/日本.png"]
SPACE = Space.named("s", WIDTH)
VALUES = np.random.default_rng(0).normal(size=(ALL, WIDTH)).astype(np.float32)
DIGESTS = np.random.default_rng(1).integers(1, 256, size=(ALL, 16), dtype=np.uint8)
IDS = [f"{n}/日本.png" for n in range(ALL)]
LABELS = [None if n % 7 == 3 else f"c{n % 3}" for n in range(ALL)]
PARTS = ["train" if n % 2 else "test" for n in range(FIRST)]


def batch(start, stop):
    return NewRows(ids=IDS[start:stop], labels=LABELS[start:stop], columns={"size": np.arange(start, stop)})


def fill(store, worker=0):
    """Publish what is pending of the newest plan, and commit."""
    job = store.plan_features(store.dataset("d"), "f", SPACE, np.dtype("f4"), shard_rows=8)
    if job is None:
        return
    for shard in np.roll(job.pending(), worker).tolist():
        publish(job, shard)
    job.commit({"made by": "hand"})


def publish(job, shard):
    start, stop = job.shard_range(shard)
    status = np.full(stop - start, RowStatus.VALID, np.uint8)
    failures = []
    if start <= FAILED < stop:
        status[FAILED - start] = RowStatus.FAILED
        failures = [RowFailure(row=FAILED, id=IDS[FAILED], stage="read", error="gone")]
    job.publish(shard, VALUES[start:stop], status=status, digests=DIGESTS[start:stop], failures=failures)


def _create(store):
    if not store.has_dataset("d"):
        store.create_dataset("d", batch(0, FIRST))


def _split(store):
    if "split" not in store.dataset("d").column_names:
        store.add_columns("d", {"split": PARTS})


def _append(store):
    if store.dataset("d").rows < ALL:
        store.append_rows("d", batch(FIRST, ALL))


def _remove(store):
    left = [text for text, row in zip(REMOVED, store.dataset("d").ids.rows_of(REMOVED), strict=True) if row >= 0]
    if left:
        store.remove_rows("d", left)


def _cover(rows):
    def step(store):
        if not store.has_features("d/f") or store.features("d/f").rows < rows:
            fill(store)

    return step


def _tag(store):
    if store.features("d/f").version != 1:
        store.tag("d/f@1", "old")
    store.tag("d/f", "live")


STEPS: dict[str, Callable[[Store], None]] = {
    "create": _create,
    "split": _split,
    "fill": _cover(FIRST),
    "append": _append,
    "fill more": _cover(ALL),
    "tag": _tag,
    "remove": _remove,
}


def run(where, done: list[str] | None = None) -> Store:
    """Make the store, or finish it. Names of the steps that returned are added to `done`."""
    store = Store.init(where)
    for name, step in STEPS.items():
        step(store)
        if done is not None:
            done.append(name)
    return store


def content(store):
    """All that a reader can get out of the newest versions, as one comparable value; nothing where nothing is."""
    if not store.has_dataset("d"):
        return {}
    dataset = store.dataset("d")
    found = {
        "ids": list(dataset.ids),
        "labels": dataset.labels.texts(),
        "columns": {
            name: [str(v) for v in column.texts()]
            if hasattr(column := dataset.column(name), "texts")
            else column.tolist()
            for name in dataset.column_names
        },
        "live": dataset.live_rows().tolist(),
        "found": dataset.ids.rows_of(IDS).tolist(),
    }
    if store.has_features("d/f"):
        features = store.features("d/f")
        rows = features.valid_rows()
        found["features"] = (
            features.status().tolist(),
            rows.tolist(),
            features.gather(rows).tolist(),
            features.input_digests().tolist(),
            [(failure.id, failure.stage) for failure in features.failures()],
        )
    return found


def check_prefix(store: Store, done: list[str]) -> None:
    """The store opens, holds at least what was acknowledged, and nothing that the job did not write."""
    found = content(store)
    if not found:
        assert "create" not in done
        return
    rows = len(found["ids"])
    assert rows in (FIRST, ALL)
    assert rows == ALL or "append" not in done
    assert (found["ids"], found["labels"]) == (IDS[:rows], LABELS[:rows])
    assert found["columns"]["size"] == list(range(rows))
    if "split" in done:
        assert found["columns"]["split"][:FIRST] == PARTS
    gone = set(range(rows)) - set(found["live"])
    assert gone in (set(), {7, 22})
    assert gone or "remove" not in done
    assert [row for row in found["found"] if row >= 0] == found["live"]
    if "features" not in found:
        assert "fill" not in done
        return
    status, valid, features, digests, failed = found["features"]
    assert len(status) in (FIRST, ALL)
    assert len(status) == ALL or "fill more" not in done
    assert valid == [row for row in range(len(status)) if row not in gone | {FAILED}]
    np.testing.assert_array_equal(np.array(features, np.float32), VALUES[valid])
    np.testing.assert_array_equal(np.array(digests, np.uint8), DIGESTS[: len(status)])
    assert failed == [(IDS[FAILED], "read")]
    if "tag" in done:
        assert store.features("d/f@live").rows == ALL
