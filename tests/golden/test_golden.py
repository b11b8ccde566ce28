"""Stores that earlier versions of featstore wrote, with the values they hold: every later version reads them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featstore.spaces import Space, comparable
from featstore.store import NewRows, Store, compact, verify
from featstore.store.records import FORMAT

HERE = Path(__file__).parent
FORMATS = sorted(HERE.glob("format-*.json"))


@pytest.fixture(params=FORMATS, ids=lambda path: path.stem)
def golden(request, tmp_path):
    """A copy, so that reading may leave nothing behind in the repository."""
    return (
        Store.open(shutil.copytree(HERE / request.param.stem, tmp_path / "store")),
        json.loads(request.param.read_text(encoding="utf-8")),
    )


def by_id(features):
    rows = features.valid_rows()
    found = features.gather(rows).astype(np.float64).tolist()
    return dict(zip(features.dataset.ids.take(rows), found, strict=True))


def test_this_format_has_a_store():
    assert HERE / f"format-{FORMAT}.json" in FORMATS


def test_it_is_small():
    for path in FORMATS:
        assert sum(file.stat().st_size for file in path.with_suffix("").rglob("*") if file.is_file()) < 100_000


def test_it_is_sound_and_holds_what_was_written(golden):
    store, expected = golden
    assert verify(store, full=True).problems == []
    dataset = store.dataset("d")
    rows = dataset.live_rows()
    ids = dataset.ids.take(rows)
    assert ids == expected["live"]
    assert dataset.ids.rows_of(ids).tolist() == rows.tolist()
    assert dict(zip(ids, dataset.labels[rows].texts(), strict=True)) == expected["labels"]
    for name in ("camera", "split"):
        assert dict(zip(ids, dataset.column(name)[rows].texts(), strict=True)) == expected[name]
    for name in ("size", "weight"):
        assert dict(zip(ids, dataset.column(name)[rows].tolist(), strict=True)) == expected[name]
    for name, values in expected["features"].items():
        features = store.features(f"d/{name}")
        assert by_id(features) == values
        assert [failure.id for failure in features.failures()] == expected["failed"]
        assert features.space.digest == expected["spaces"][name]
        assert features.dtype.name == expected["dtypes"][name]
    assert by_id(store.features("d/wide")) == expected["wide"]
    assert by_id(store.features("d/old@live")) == expected["features"]["old"]
    assert store.features("d/old@first").version == 1
    assert dataset.root == "/pictures"
    assert comparable(store.features("d/old").space, store.features("d/new").space)


def test_the_old_layout_is_still_there(golden):
    store, expected = golden
    first = store.features("d/old@first")
    assert first.record.layout == 1
    found = by_id(first)
    assert {i: found[i] for i in expected["wide"]} == {i: expected["features"]["old"][i] for i in expected["wide"]}


def test_it_is_written_on(golden):
    store, expected = golden
    store.append_rows("d", NewRows(ids=["newest"]))
    for name in ("old", "new"):
        features = store.features(f"d/{name}")
        job = store.plan_features(store.dataset("d"), name, features.space, features.dtype, shard_rows=8)
        job.publish(0, np.ones((1, 4), features.dtype))
        job.commit({})
        assert by_id(store.features(f"d/{name}")) == {**expected["features"][name], "newest": [1.0] * 4}
    assert store.features("d/new").space.digest == Space.named("new", 4).digest
    store.remove_rows("d", ["newest"])
    assert verify(store, full=True).problems == []


def test_an_unfinished_job_goes_on(golden):
    store, _ = golden
    job = store.plan_features(store.dataset("d"), "half", Space.named("new", 4), np.dtype("f4"), shard_rows=8)
    assert job.pending() == list(range(1, job.n_shards))
    for shard in job.pending():
        job.publish(shard, np.ones((job.shard_range(shard)[1] - job.shard_range(shard)[0], 4), np.float32))
    job.commit({})
    assert len(by_id(store.features("d/half"))) == len(store.dataset("d").live_rows())
    compact(store, "d")
    assert verify(store, full=True).problems == []
