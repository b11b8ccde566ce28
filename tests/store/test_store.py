"""A store through its public interface: datasets, feature sets, versions, resume, twins and damage."""

import multiprocessing
import pickle

import numpy as np
import pytest
import zarr

from featstore.errors import (
    AlignmentError,
    AlreadyExistsError,
    BadInputError,
    ConflictError,
    CorruptStoreError,
    IncompleteError,
    NonFiniteError,
    NotFoundError,
    SpaceMismatchError,
    UnknownNameError,
    UsageError,
)
from featstore.spaces import Space
from featstore.store import NewRows, RowFailure, RowStatus, Store, common_rows, plan_shard_rows
from featstore.store.zarr_format import chunk_key, encode_shard
from tests.store_factory import add_set

SPACE = Space.named("test", 5)


@pytest.fixture
def store(tmp_path):
    return Store.init(tmp_path / "store")


def rows_of(count, start=0):
    return NewRows(
        ids=[f"c{n % 3}/{n}.png" for n in range(start, start + count)],
        labels=[f"c{n % 3}" for n in range(start, start + count)],
        columns={"size": np.arange(start, start + count)},
    )


def fill(store, name, values, *, dtype="float32", shard_rows=8, space=SPACE, status=None):
    dataset, _, plain = name.partition("/")
    add_set(store, dataset, plain, values.astype(dtype), space=space, status=status, shard_rows=shard_rows)
    return store.features(name)


def test_features_come_back_as_written_and_zarr_python_agrees(store):
    store.create_dataset("d", rows_of(37))
    values = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    features = fill(store, "d/f", values)
    order = np.random.default_rng(1).integers(0, 37, 100)
    np.testing.assert_array_equal(features.gather(order), values[order])
    for out in (np.empty((100, 5), np.float32), np.empty((100, 5), np.float64), np.empty((5, 100), np.float32).T):
        assert features.gather(order, out) is out
        np.testing.assert_array_equal(out, values[order])
    with pytest.raises(AlignmentError, match="out has shape"):
        features.gather(order, np.empty((3, 5), np.float32))
    assert features.gather([]).shape == (0, 5)
    for batch in (None, 1, 3, 8, 100):
        for span in ((0, 37), (5, 29), (9, 9)):
            blocks = list(features.scan(batch, rows=span))
            assert [first for first, _ in blocks] == sorted({first for first, _ in blocks})
            got = np.concatenate([block for _, block in blocks]) if blocks else values[:0]
            np.testing.assert_array_equal(got, values[span[0] : span[1]])
    group = zarr.open_group(f"{store.location}/features/d/f/segments/{features.record.segments[0].name}", mode="r")
    np.testing.assert_array_equal(group["features"][:], values)
    assert (group["status"][:] == RowStatus.VALID).all()
    assert features.take_ids(["c1/4.png"]).tolist() == [values[4].tolist()]
    with pytest.raises(AlignmentError, match=r"nobody\.png"):
        features.take_ids(["nobody.png"])
    np.testing.assert_array_equal([features.row(number) for number in range(37)], values)
    for beyond in (37, -1):
        with pytest.raises(IndexError):
            features.gather([beyond])
        with pytest.raises(IndexError):
            features.row(beyond)


def test_zarr_python_opens_every_array_of_a_dataset(store):
    dataset = store.create_dataset("d", rows_of(10))
    group = zarr.open_group(f"{store.location}/datasets/d/segments/{dataset.record.segments[0].name}", mode="r")
    offsets, data = group["ids/offsets"][:], group["ids/bytes"][:].tobytes()
    assert data[offsets[4] : offsets[5]].decode() == "c1/4.png"
    np.testing.assert_array_equal(group["columns/size/values"][:], np.arange(10))


def test_ids_labels_columns_and_filters(store):
    dataset = store.create_dataset("d", rows_of(9))
    assert dataset.ids.rows_of(["c2/8.png", "x", "c0/0.png"]).tolist() == [8, -1, 0]
    assert dataset.ids.take([3]) == ["c0/3.png"]
    assert dataset.labels.texts()[:4] == ["c0", "c1", "c2", "c0"]
    assert dataset.select(["label=c0,c1", "size!=4"]).tolist() == [0, 1, 3, 6, 7]
    listing = store.files.root / "list.txt"
    listing.write_text("c2/2.png\nc1/1.png\nmissing\n")
    assert dataset.select([f"id=@{listing}"]).tolist() == [1, 2]
    with pytest.raises(NotFoundError, match="does not exist") as caught:
        dataset.select([f"id=@{listing}.gone"])
    assert "one value a line" in caught.value.hint
    with pytest.raises(UnknownNameError, match="size"):
        dataset.select(["sise=3"])
    with pytest.raises(UsageError, match="no row"):
        dataset.select(["label=c9"])
    with pytest.raises(UsageError, match="COLUMN=VALUE"):
        dataset.select(["label"])


def test_ids_are_data_never_paths(store):
    nasty = ["../up", "/abs", "C:\\x", "a\nb", "e\u0301", "日本/語.png", "x" * 4000]
    dataset = store.create_dataset("d", NewRows(ids=nasty))
    assert dataset.ids.take(range(4)) == nasty[:4]
    assert dataset.ids.rows_of(["\u00e9", *nasty]).tolist() == [4, 0, 1, 2, 3, 4, 5, 6]
    for bad in ("", "a\0b", "x" * 9000, "\ud800"):
        with pytest.raises(BadInputError):
            store.create_dataset("bad", NewRows(ids=[bad]))
    with pytest.raises(BadInputError, match="twice"):
        store.create_dataset("bad", NewRows(ids=["e\u0301", "\u00e9"]))
    for name in ("../x", "a/b", "", "A", ".hidden", "a..b"):
        with pytest.raises(UsageError):
            store.create_dataset(name, NewRows(ids=["a"]))
    assert store.datasets() == ["d"]


def test_rows_append_and_columns_join_by_name(store):
    store.create_dataset("d", rows_of(4))
    store.add_columns("d", {"split": ["a", "b", "a", "b"]})
    grown = store.append_rows("d", NewRows(ids=["new"], labels=["zebra"]))
    assert (grown.version, grown.rows) == (3, 5)
    assert grown.labels.texts() == ["c0", "c1", "c2", "c0", "zebra"]
    assert grown.column("split").texts() == ["a", "b", "a", "b", None]
    np.testing.assert_array_equal(grown.column("size"), [0, 1, 2, 3, np.nan])
    with pytest.raises(AlreadyExistsError, match="new"):
        store.append_rows("d", NewRows(ids=["new"]))
    assert store.dataset("d@1").rows == 4
    values = np.eye(5, dtype=np.float32)
    first = store.plan_features(store.dataset("d", 1), "f", SPACE, np.dtype("f4"), shard_rows=8)
    first.publish(0, values[:4])
    first.commit({})
    features = fill(store, "d/f", values)
    assert (features.version, features.rows, len(features.record.segments)) == (2, 5, 2)
    np.testing.assert_array_equal(features.gather([4, 0, 4, 2]), values[[4, 0, 4, 2]])
    np.testing.assert_array_equal([features.row(number) for number in (4, 3)], values[[4, 3]])
    assert store.features("d/f@1").rows == 4
    assert store.plan_features(store.dataset("d"), "f", SPACE, np.dtype("f4"), shard_rows=8) is None
    store.tag("d/f@1", "live")
    assert store.features("d/f@live").version == 1
    store.tag("d/f", "live")
    assert store.features("d/f@live").version == 2
    with pytest.raises(UnknownNameError, match="live"):
        store.features("d/f@life")


def test_another_space_cannot_enter_a_set(store):
    store.create_dataset("d", rows_of(3))
    fill(store, "d/f", np.ones((3, 5), np.float32))
    with pytest.raises(SpaceMismatchError, match=r"name: test .* other"):
        store.plan_features(store.dataset("d"), "f", Space.named("other", 5), np.dtype("f4"), shard_rows=8)


def test_rows_without_features_never_come_back(store):
    store.create_dataset("d", rows_of(20))
    values = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    status = np.ones(20, np.uint8)
    status[[3, 11]] = RowStatus.FAILED
    features = fill(store, "d/f", values, status=status)
    assert set(features.valid_rows().tolist()) == set(range(20)) - {3, 11}
    assert np.isnan(np.concatenate([b for _, b in features.scan()])[[3, 11]]).all()
    with pytest.raises(IncompleteError, match=r"c0/3\.png"):
        features.gather([1, 3])
    with pytest.raises(IncompleteError, match=r"c2/11\.png"):
        features.row(11)
    np.testing.assert_array_equal(features.row(4), values[4])
    whole = fill(store, "d/g", values)
    assert common_rows([whole, features], np.array([2, 3, 4])).tolist() == [2, 4]


def test_values_that_cannot_be_stored_are_refused_with_their_ids(store):
    store.create_dataset("d", rows_of(3))
    job = store.plan_features(store.dataset("d"), "f", SPACE, np.dtype("f2"), shard_rows=8)
    values = np.ones((3, 5), np.float32)
    values[1, 2] = 1e5
    with pytest.raises(NonFiniteError, match=r"c1/1\.png.*\n.*--dtype float32"):
        job.publish(0, values)
    values[1, 2] = np.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        job.publish(0, values)
    for shape in ((1, 5), (3, 1), (3, 6)):
        with pytest.raises(AlignmentError):
            job.publish(0, np.ones(shape, np.float32))
    assert job.pending() == [0]
    with pytest.raises(IncompleteError, match="1 of 1"):
        job.commit({})


def test_a_job_goes_on_where_it_stopped_and_commits_once(store):
    """Invariant 1: the same plan, only the pending shards; commit is idempotent."""
    dataset = store.create_dataset("d", rows_of(30))
    values = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    job = store.plan_features(dataset, "f", SPACE, np.dtype("f4"), shard_rows=8)
    assert job.publish(2, values[16:24])
    assert not store.has_features("d/f")
    again = pickle.loads(pickle.dumps(store)).plan_features(dataset, "f", SPACE, np.dtype("f2"), shard_rows=16)  # noqa: S301
    assert (again.shard_rows, again.dtype.name, again.pending()) == (8, "float32", [0, 1, 3])
    assert not again.publish(2, -values[16:24])
    for shard in again.pending():
        again.publish(shard, values[slice(*again.shard_range(shard))])
    assert again.commit({}).number == job.commit({}).number == 1
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(30)), values)


def test_a_half_published_shard_is_finished_consistently(store):
    """Invariant 2 and 4: the first bytes stay; status and digests are made true of them."""
    dataset = store.create_dataset("d", rows_of(4))
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    job = store.plan_features(dataset, "f", SPACE, np.dtype("f4"), shard_rows=8)
    died = values.copy()
    died[[1, 0]] = np.nan  # the dead worker could not read rows 0 and 1 …
    # … and left only the features file behind
    key = chunk_key(f"{job._segment_key}/features", 0, 2)
    job.files.put_new(key, encode_shard(died, job.plan.chunk_rows, job.shard_rows))
    other = values.copy()
    other[3] += 1  # row 3 changed between the two
    digests = np.arange(64, dtype=np.uint8).reshape(4, 16) + 1
    status = np.array([2, 1, 2, 1], np.uint8)  # the second worker cannot read rows 0 and 2
    failures = [RowFailure(row=row, id=f"c{row}/{row}.png", stage="read", error="gone") for row in (0, 2)]
    assert job.publish(0, other, status=status, digests=digests, failures=failures)
    job.commit({})
    features = store.features("d/f")
    assert features.status().tolist() == [2, 2, 1, 1]
    np.testing.assert_array_equal(features.gather([2, 3]), values[[2, 3]])
    # both failed on row 0; on row 1 only the first; the second saw nothing of row 2 and another row 3
    assert features.input_digests().any(axis=1).tolist() == [True, False, False, False]
    assert features.failures()[0] == failures[0]
    assert [(failure.id, failure.stage) for failure in features.failures()[1:]] == [("c1/1.png", "publish")]


def _publish_all(job, values, number):
    for shard in np.roll(np.arange(job.n_shards), number).tolist():
        job.publish(shard, values[slice(*job.shard_range(shard))])
    job.commit({"worker": number})


def test_twins_lose_nothing(store):
    """Invariant 4: four processes publish and commit the same job."""
    dataset = store.create_dataset("d", rows_of(64))
    values = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    job = store.plan_features(dataset, "f", SPACE, np.dtype("f4"), shard_rows=8)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_publish_all, args=(job, values, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert store.features("d/f").version == 1
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(64)), values)
    assert not list(store.files.root.rglob(".tmp-*"))


def test_a_commit_over_other_rows_is_a_conflict(store):
    dataset = store.create_dataset("d", rows_of(4))
    values = np.ones((4, 5), np.float32)
    job = store.plan_features(dataset, "f", SPACE, np.dtype("f4"), shard_rows=8)
    other = store.plan_features(dataset, "f", Space.named("other", 5), np.dtype("f4"), shard_rows=8)
    for each in (job, other):
        each.publish(0, values)
    job.commit({})
    with pytest.raises(ConflictError):
        other.commit({})


@pytest.mark.parametrize("damage", ["delete", "truncate", "empty", "index"])
def test_a_damaged_shard_is_an_error_not_numbers(store, damage):
    """Invariant 3: what zarr-python reads as fill values is refused here."""
    store.create_dataset("d", rows_of(20))
    features = fill(store, "d/f", np.ones((20, 5), np.float32))
    [shard] = store.files.root.glob("features/d/f/segments/*/features/c.1.0")
    data = bytearray(shard.read_bytes())
    if damage == "delete":
        shard.unlink()
    elif damage == "index":
        data[-10] ^= 1
        shard.write_bytes(data)
    else:
        shard.write_bytes(data[: len(data) // 2 if damage == "truncate" else 0])
    features.gather([0, 19])
    with pytest.raises(CorruptStoreError):
        features.gather([9])


def test_a_shard_of_another_layout_is_read_through_zarr(store):
    store.create_dataset("d", rows_of(16))
    values = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    features = fill(store, "d/f", values, shard_rows=16)
    [shard] = store.files.root.glob("features/d/f/segments/*/features/c.0.0")
    data = shard.read_bytes()
    import google_crc32c

    index = np.frombuffer(data[-20:-4], "<u8").reshape(1, 2).copy()
    index[0, 0] = 8  # the same chunk, eight bytes further on
    body = index.tobytes()
    shard.write_bytes(b"\0" * 8 + data[:-20] + body + google_crc32c.value(body).to_bytes(4, "little"))
    np.testing.assert_array_equal(features.gather([15, 3]), values[[15, 3]])


def test_opening(store, tmp_path, monkeypatch):
    monkeypatch.delenv("FEATSTORE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="featstore init"):
        Store.open()
    made = Store.init()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert Store.open().location == made.location
    monkeypatch.setenv("FEATSTORE_STORE", store.location)
    assert Store.open().location == store.location
    with pytest.raises(UsageError, match="not empty"):
        Store.init(tmp_path)
    with pytest.raises(UnknownNameError, match="dataset"):
        store.dataset("nothing")
    store.create_dataset("pets", rows_of(3))
    with pytest.raises(UnknownNameError, match="did you mean pets"):
        store.features("pet/old")
    with pytest.raises(UsageError, match="DATASET/NAME"):
        store.features("pets")


def test_a_newer_format_is_refused_by_name(store):
    store.create_dataset("d", rows_of(3))
    record = store.files.root / "datasets/d/versions/1.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 9').replace('"format":1', '"format":9'))
    with pytest.raises(UsageError, match="format 9"):
        store.dataset("d")
    record.write_text("{")
    with pytest.raises(CorruptStoreError, match=r"1\.json"):
        store.dataset("d")


def test_shard_size_follows_work_and_workers():
    assert plan_shard_rows(10**6, 512) == 2**17
    assert plan_shard_rows(10**9, 2048) == 2**16  # 128 MiB
    assert plan_shard_rows(10**9, 2048, rows_per_second=30) == 2**11  # two minutes
    assert plan_shard_rows(2000, 512, workers=2) == 128  # four shards for each of two workers


def test_many_ids_are_taken_as_one_by_one(store):
    """Across segments, in any order, with repeats."""
    store.create_dataset("d", NewRows(ids=[f"é{k}" for k in range(100)]))
    dataset = store.append_rows("d", NewRows(ids=[f"x{k}" for k in range(60)]))
    rows = np.random.default_rng(0).integers(0, 160, 200)
    assert dataset.ids.take(rows) == [dataset.ids[int(row)] for row in rows]
    assert dataset.ids.take(rows % 100) == [f"é{row % 100}" for row in rows]
    with pytest.raises(IndexError):
        dataset.ids.take(np.arange(100, 200))
