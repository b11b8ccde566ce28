"""A store on an S3 server: what is read, with how many requests, and copies on this machine."""

import multiprocessing
import pickle
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.spaces import Space
from featstore.store import (
    NewRows,
    Store,
    cache_files,
    clear_cache,
    collect_garbage,
    compact,
    list_cache,
    repair,
)
from featstore.store.cache import CachedFiles
from featstore.store.local_files import LocalFiles
from tests.object_server import status
from tests.store.test_store import fill

N, D = 200, 16
SPACE = Space.named("wide", D)


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@pytest.fixture
def empty(bucket):
    return Store.init(f"{bucket}/store")


@pytest.fixture
def store(empty, values):
    """200 rows in two segments of shards of 64, with chunks of 64 rows."""
    ids = [f"c{n % 3}/{n}" for n in range(N)]
    store = empty
    store.create_dataset("d", NewRows(ids=ids[:150], labels=[i[:2] for i in ids[:150]]))
    fill(store, "d/f", values[:150], space=SPACE, shard_rows=64)
    store.append_rows("d", NewRows(ids=ids[150:], labels=[i[:2] for i in ids[150:]]))
    dataset = store.dataset("d")
    job = store.plan_features(dataset, "f", SPACE, np.dtype("f4"), shard_rows=64)
    job.publish(0, values[150:])
    job.commit({})
    return store


def paths(s3, method="GET"):
    return [call for call in s3.calls if call.method == method and "/segments/" in call.path]


def test_reads_equal_what_was_written_by_ranges_and_by_whole_shards(store, values, s3):
    features = store.features("d/f")
    s3.calls.clear()
    np.testing.assert_array_equal(features.row(7), values[7])
    np.testing.assert_array_equal(features.gather([9, 7, 9]), values[[9, 7, 9]])
    np.testing.assert_array_equal(features.take_ids(["c1/199", "c0/0"]), values[[199, 0]])
    spans = [call.span for call in paths(s3) if "/features/c." in call.path]
    assert spans
    assert "bytes=0-8388607" not in spans  # never a whole shard
    s3.calls.clear()
    for batch in (None, 7, 64):
        np.testing.assert_array_equal(np.concatenate([block for _, block in features.scan(batch)]), values)
    assert [call.span for call in paths(s3)] == ["bytes=0-8388607"] * 4  # each shard once, whole
    order = np.random.default_rng(1).integers(0, N, 500)
    np.testing.assert_array_equal(features.gather(order), values[order])
    assert len(paths(s3)) == 4
    again = pickle.loads(pickle.dumps(features))  # noqa: S301 - our own
    np.testing.assert_array_equal(again.gather(order), values[order])


def test_opening_costs_a_handful_of_requests(store, s3):
    for _ in range(12):
        store.tag("d/f", "live")
    s3.calls.clear()
    opened = Store.open(store.location)
    assert len(s3.calls) == 1
    opened.features("d/f")
    assert len(s3.calls) <= 5
    opened.features("d/f").row(3)
    assert len(s3.calls) <= 12


def test_a_damaged_object_is_never_read_as_rows(store):
    [key] = [info.key for info in store.files.walk() if info.key.endswith("features/c.1.0")]
    sound = store.files.get(key)
    for damaged in (sound[:100] + b"?" + sound[101:], sound[:-1], sound + b"!", b""):
        store.files.put(key, damaged)
        with pytest.raises(CorruptStoreError):
            list(store.features("d/f").scan())
    for damaged in (sound[:-1], b""):
        store.files.put(key, damaged)
        with pytest.raises(CorruptStoreError):
            store.features("d/f").row(70)
        with pytest.raises(CorruptStoreError):
            store.materialise("d/f")
    store.files.delete([key])
    with pytest.raises(CorruptStoreError, match="is missing"):
        store.features("d/f").row(70)


def test_materialised_sets_are_read_from_this_machine(store, values, s3):
    fetched = store.fetch("d/f")[1]
    assert (fetched.present_files, fetched.present_bytes) == (0, 0)
    assert fetched.bytes == sum(entry.bytes for entry in list_cache())
    assert sum(entry.files for entry in list_cache()) == fetched.files
    s3.calls.clear()
    for reader in (store.materialise("d/f"), store.features("d/f"), Store.open(store.location).features("d/f@2")):
        np.testing.assert_array_equal(np.concatenate([block for _, block in reader.scan()]), values)
        np.testing.assert_array_equal(reader.gather(np.arange(N)[::-1]), values[::-1])
        np.testing.assert_array_equal(reader.row(3), values[3])
        assert reader.take_ids(["c2/152"])[0].tolist() == values[152].tolist()
        assert len(reader.dataset.labels.names) == 3
        assert (reader.status() == 1).all()
        block = next(reader.scan())[1]
        assert block.base is not None  # a view of the copy
        assert block.flags.writeable
    assert not [call for call in paths(s3) if "zarr.json" not in call.path]
    earlier = store.features("d/f@1")
    np.testing.assert_array_equal(earlier.gather([3]), values[[3]])
    assert not [call for call in paths(s3) if "zarr.json" not in call.path]
    again = store.fetch("d/f")[1]
    assert (again.files, again.present_files) == (0, fetched.files)
    clear_cache()
    assert list_cache() == []
    np.testing.assert_array_equal(store.features("d/f").gather([3]), values[[3]])


def test_a_copy_that_was_damaged_or_deleted_is_fetched_again(store, values):
    reader = store.materialise("d/f")
    cache = cache_files()
    for info in list(cache.walk("blobs")):
        if info.size % 3:
            cache.delete([info.key])
        else:
            cache.path(info.key).write_bytes(b"short")
    np.testing.assert_array_equal(reader.gather(np.arange(N)), values)
    for info in cache.walk("groups"):
        cache.path(info.key).write_bytes(b"{}")
    assert list_cache() == []
    assert (
        store.fetch("d/f")[1].present_files == 4
    )  # shards are known by their records, whatever the cache has forgotten
    assert len(list_cache()) == 4
    clear_cache(unused_days=1)
    assert len(list_cache()) == 4


def test_copies_are_checked_and_go_on_after_a_stop(store, s3):
    [key] = [info.key for info in store.files.walk() if info.key.endswith("features/c.2.0")]
    sound = store.files.get(key)
    store.files.put(key, sound[:-1] + b"!")
    with pytest.raises(CorruptStoreError, match="holds other bytes than were published"):
        store.materialise("d/f")
    store.files.put(key, sound)
    s3.fault = lambda call, _environ: status(403, "AccessDenied") if call.path.endswith(key) else None
    with pytest.raises(FeatstoreError, match="AccessDenied"):
        store.materialise("d/f")
    s3.fault = None
    s3.calls.clear()
    fetched = store.fetch("d/f")[1]
    assert fetched.present_files > 0
    assert fetched.files < fetched.present_files
    assert any(call.path.endswith(key) for call in s3.calls)


class _Interrupted:
    def __init__(self, after):
        self.left = after

    def start(self, *_args, **_options): ...

    def note(self, message): ...

    def advance(self, n):
        self.left -= n
        if not self.left:
            raise KeyboardInterrupt


def test_an_interrupted_copy_goes_on(store, values):
    whole = sum(1 for info in store.files.walk("datasets") if "/segments/" in info.key)
    with pytest.raises(KeyboardInterrupt):
        store.materialise("d/f", _Interrupted(whole + 3))
    features, fetched = store.fetch("d/f")
    assert fetched.present_files >= whole + 3
    assert fetched.files <= 9
    np.testing.assert_array_equal(features.gather(np.arange(N)), values)


def test_a_scan_fetches_the_next_shard_meanwhile(store, values, s3):
    scan = store.features("d/f@1").scan()
    s3.calls.clear()
    _, first = next(scan)
    np.testing.assert_array_equal(first, values[:64])
    deadline = time.monotonic() + 20
    while len(paths(s3)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(paths(s3)) == 2
    assert len(list(scan)) == 2
    assert len(paths(s3)) == 3


def test_no_space_is_said_before_anything_is_fetched(store, s3, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=100))
    s3.calls.clear()
    with pytest.raises(FeatstoreError, match=r"needs .* more in .*, which has .* free\n.*featstore cache clear"):
        store.materialise("d/f")
    assert not [call for call in paths(s3) if "/features/c." in call.path]


def _materialise(location, barrier, results):
    barrier.wait()
    features, fetched = Store.open(location).fetch("d/f")
    results.put((fetched.files, float(features.gather(np.arange(N)).sum())))


def test_several_processes_fetch_once(store, values):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_materialise, args=(store.location, barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(files for files, _ in found)[:2] == [0, 0]
    assert {total for _, total in found} == {float(values.sum())}


def test_a_pinned_version_stays_while_another_is_written(store, values):
    assert isinstance(store.materialise("d/f@1")._files, CachedFiles)
    newest = store.features("d/f")  # its second segment was not copied
    np.testing.assert_array_equal(newest.gather([3, 180]), values[[3, 180]])


def test_rows_are_removed_for_good_and_damage_is_mended(store, values, tmp_path):
    ids = list(store.dataset("d").ids)
    store.remove_rows("d", [ids[3], ids[170]])
    left = [n for n in range(N) if n not in (3, 170)]
    assert compact(store, "d").removed == 2
    collect_garbage(store, grace=timedelta(0))
    assert [version.number for version in store.history("d/f")] == [3]
    np.testing.assert_array_equal(store.features("d/f").take_ids([ids[n] for n in left]), values[left])
    copy = LocalFiles(tmp_path / "copy")
    for info in store.files.walk():
        copy.put_new(info.key, [store.files.get(info.key)])
    assert not any(values[3].tobytes() in copy.get(info.key) for info in copy.walk())

    lost, cut = [info.key for info in copy.walk() if "/features/c." in info.key][:2]
    damaged = copy.get(cut)[:9] + b"?" + copy.get(cut)[10:]
    store.files.delete([lost])
    store.files.put(cut, damaged)
    report = repair(store, copy=copy.location)
    assert (len(report.problems), report.mended) == (2, True)
    assert [store.files.get(key) for key in (lost, cut)] == [copy.get(key) for key in (lost, cut)]
    store.files.put(cut, damaged)
    report = repair(store, give_up=True)
    assert report.remaining == []
    assert report.replaced[0].given_up > 0


def _commits(location, worker, count):
    store = Store.open(location)
    for number in range(count):
        store.append_rows("d", NewRows(ids=[f"w{worker}/{number}"]))


def race(store, writers, commits):
    """Writers append rows to one dataset while a reader opens it again and again; every acknowledged row is there."""
    store.create_dataset("d", NewRows(ids=["first"]))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_commits, args=(store.location, worker, commits)) for worker in range(writers)]
    seen: list[int] = []
    wrong: list[str] = []
    done = threading.Event()

    def read():
        while not done.wait(0.05):
            dataset = store.dataset("d")
            ids = list(dataset.ids)
            if len(ids) != dataset.rows or len(set(ids)) != len(ids):
                wrong.append(repr(dataset))
            seen.append(dataset.rows)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        done.set()
        reader.join()
    assert [worker.exitcode for worker in workers] == [0] * writers
    assert not wrong
    assert seen == sorted(seen)
    dataset = store.dataset("d")
    assert dataset.version == 1 + writers * commits
    expected = {"first", *(f"w{worker}/{number}" for worker in range(writers) for number in range(commits))}
    assert set(dataset.ids) == expected
    assert len(dataset.ids) == len(expected)


def test_four_writers_lose_nothing(empty):
    race(empty, 4, 3)


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_four_writers_lose_nothing_at_length(empty):
    race(empty, 4, 12)


def _tags(location, count):
    store = Store.open(location)
    for _ in range(count):
        store.tag("d/f", "live")


def test_equal_entries_of_two_writers_are_two_entries(store):
    together = threading.Barrier(4)

    def tag():
        own = Store.open(store.location)
        together.wait()
        for _ in range(5):
            own.tag("d/f", "live")

    writers = [threading.Thread(target=tag) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(store.files.names("features/d/f/tags/live")) == 20


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_four_writers_of_one_log_lose_no_entry(store):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_tags, args=(store.location, 60)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    entries = store.files.names("features/d/f/tags/live")
    assert sorted(entries) == sorted(f"{number}.json" for number in range(1, 241))
    assert store.features("d/f@live").version == 2
