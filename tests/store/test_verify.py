"""Invariant 3: `verify` finds what is damaged, and names it."""

import shutil

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.spaces import Space
from featstore.store import NewRows, RowFailure, RowStatus, Store, split_dataset, verify

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


def test_a_sound_store_passes(small):
    for full in (False, True):
        report = verify(small, full=full)
        assert report.problems == []
        assert report.names == ["d@2", "d/f@1"]
        assert report.shards == 3
    assert verify(small, "d/f", full=True).bytes_read > verify(small, "d/f", full=True, sample=0.3).bytes_read > 0
    with pytest.raises(UsageError):
        verify(small, sample=0)
    with pytest.raises(UsageError, match="did you mean f"):
        verify(small, "d/ff")


@pytest.mark.parametrize("damage", ["delete", "truncate", "empty", "extend"])
def test_quick_finds_files_that_are_not_whole(small, tmp_path, damage):
    copy = Store.open(shutil.copytree(small.location, tmp_path / "copy"))
    files = [
        path
        for part in ("features", "spaces")
        for path in (copy.files.root / part).rglob("*")
        if path.is_file() and "versions" not in path.parts
    ]
    for path in files:
        if path.name == "plan.json" or {"tags", "alive"} & set(path.parts):
            continue  # a plan is history once its segment is committed; tags are read when they are asked for
        original = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes({"truncate": original[:-1], "empty": b"", "extend": original + b"\0"}[damage])
        assert verify(copy).problems, path
        path.write_bytes(original)
    assert verify(copy).problems == []


def test_swapped_shards_are_found_and_their_rows_named(small, tmp_path):
    copy = Store.open(shutil.copytree(small.location, tmp_path / "copy"))
    [first] = (copy.files.root / "features").glob("*/*/segments/*/features/c.0.0")
    second = first.with_name("c.1.0")
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert verify(copy).problems == []  # sizes agree: only reading them tells
    assert [problem.rows for problem in verify(copy, full=True).problems] == [(0, 8), (8, 16)]
