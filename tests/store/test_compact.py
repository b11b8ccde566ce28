"""Removing rows and compaction: row by row what a dict says, whatever happens between the steps."""

import itertools
import multiprocessing
import os
import shutil
import socket

import numpy as np
import pytest

from featstore.errors import AlignmentError, ConflictError, CorruptStoreError
from featstore.spaces import Space
from featstore.store import NewRows, RowFailure, RowStatus, Store, common_rows, verify
from featstore.store.compaction import compact
from featstore.store.heartbeats import beat
from tests.store.crashes import stopped_at

pytestmark = pytest.mark.usefixtures("without_fsync")

SPACE = Space.named("s", 3)
RNG = np.random.default_rng(0)


def value_of(id_, name):
    """The feature that every test stores for an id in a set."""
    return np.float32([int(id_), int(id_) / 7, len(name) + ord(name[0])])


def append(store, name, count, *, failed=(), shard_rows=8):
    """Bring a set up to its dataset's first `count` rows."""
    dataset = store.dataset("d")
    job = store.plan_features(dataset, name, SPACE, np.dtype("f4"), shard_rows=shard_rows, rows=count)
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        ids = dataset.ids.take(range(start, stop))
        status = np.array([RowStatus.FAILED if id_ in failed else RowStatus.VALID for id_ in ids], np.uint8)
        digests = np.array([[int(id_) % 251 + 1] * 16 for id_ in ids], np.uint8)
        failures = [
            RowFailure(row=start + k, id=id_, stage="read", error="gone") for k, id_ in enumerate(ids) if id_ in failed
        ]
        job.publish(
            shard, np.stack([value_of(id_, name) for id_ in ids]), status=status, digests=digests, failures=failures
        )
    job.commit({"import": f"{name}.npz", "file": "f" * 64})


def new_rows(start, stop):
    ids = [str(n) for n in range(start, stop)]
    return NewRows(
        ids=ids, labels=[f"person {n % 4}" for n in range(start, stop)], columns={"n": np.arange(start, stop)}
    )


def check(store, ids, sets, *, failed=()):
    """Everything that a reader can ask of the store is what a dict would answer; `failed` rows are those of set f."""
    dataset = store.dataset("d")
    live = dataset.live_rows()
    assert sorted(dataset.ids.take(live), key=int) == sorted(ids, key=int)
    rows = dataset.ids.rows_of(ids)
    assert (rows >= 0).all()
    assert dataset.labels[rows].texts() == [f"person {int(id_) % 4}" for id_ in ids]
    np.testing.assert_array_equal(dataset.column("n")[rows], [int(id_) for id_ in ids])
    for name, covered in sets.items():
        features = store.features(f"d/{name}")
        bad = failed if name == "f" else ()
        wanted = [id_ for id_ in covered if id_ not in bad]
        assert features.dataset.ids.take(features.valid_rows()) == wanted
        if wanted:
            np.testing.assert_array_equal(features.take_ids(wanted), np.stack([value_of(id_, name) for id_ in wanted]))
        valid = np.random.default_rng(0).permutation(features.valid_rows())
        np.testing.assert_array_equal(features.input_digests(valid), features.input_digests()[valid])
        digests = features.input_digests(features.valid_rows())
        assert digests[:, 0].tolist() == [int(id_) % 251 + 1 for id_ in wanted]
        ledger = {failure.id: failure for failure in features.failures() if failure.id in covered}
        assert sorted(ledger) == sorted(set(bad) & set(covered))
        for id_ in ledger:
            row = int(features.dataset.ids.rows_of([id_])[0])
            assert features.status()[row] == RowStatus.FAILED
            assert ledger[id_].row == row
    assert verify(store, full=True).problems == []


@pytest.fixture
def store(tmp_path):
    """40 rows in two commits; set f covers them in two segments, set g the first 24; two rows of f failed."""
    store = Store.init(tmp_path / "store")
    store.create_dataset("d", new_rows(0, 24))
    append(store, "f", 24, failed=("5",))
    append(store, "g", 24)
    store.append_rows("d", new_rows(24, 40))
    append(store, "f", 40, failed=("30",))
    store.add_columns("d", {"split": ["a", "b"] * 20})
    return store


GONE = ["0", "5", "7", "8", "9", "23", "31", "39"]
LEFT = [str(n) for n in range(40) if str(n) not in GONE]
IN_G = [id_ for id_ in LEFT if int(id_) < 24]


def test_removed_rows_are_gone_at_once_and_compaction_leaves_them_out(store):
    dataset, removed = store.remove_rows("d", GONE)
    assert (removed, dataset.rows, len(dataset.live_rows())) == (8, 40, 32)
    check(store, LEFT, {"f": LEFT, "g": IN_G}, failed=("30",))
    for gone in (["7"], ["7", "8", "1"]):
        with pytest.raises(AlignmentError, match="not in dataset"):
            store.features("d/f").take_ids(gone)
    with pytest.raises(AlignmentError, match="nothing was removed"):
        store.remove_rows("d", ["1", "7"])

    report = compact(store, "d")
    assert (report.dataset, report.removed) == ("d@5", 8)
    assert [(part.before, part.set, part.rows_before, part.rows) for part in report.sets] == [
        ("d/f@2", "d/f@3", 40, 32),
        ("d/g@1", "d/g@2", 24, 18),
    ]
    check(store, LEFT, {"f": LEFT, "g": IN_G}, failed=("30",))
    features = store.features("d/f")
    assert (features.rows, len(features.record.segments), features.dataset.layout) == (32, 1, 2)
    assert features.record.provenance == {"import": "f.npz", "file": "f" * 64, "compacted from": 2}
    assert store.dataset("d").column("split").texts() == ["ab"[int(id_) % 2] for id_ in LEFT]
    assert common_rows([features, store.features("d/g")]).tolist() == list(range(18))
    assert compact(store, "d").sets == ()
    # versions of before read as before, by the numbers of before
    assert store.features("d/f@1").take_ids(["1"]).tolist() == [value_of("1", "f").tolist()]
    assert store.dataset("d@1").ids[7] == "7"
    with pytest.raises(AlignmentError, match="a compaction lies between"):
        common_rows([store.features("d/f@2"), store.features("d/g")])

    # an id may come again, as a new row
    store.append_rows("d", new_rows(7, 9))
    append(store, "f", 34)
    append(store, "g", 34)
    again = [*LEFT, "7", "8"]
    check(store, again, {"f": again, "g": again}, failed=("30",))
    store.remove_rows("d", ["8", "1"])
    compact(store, "d")
    left = [id_ for id_ in again if id_ not in ("8", "1")]
    check(store, left, {"f": left, "g": left}, failed=("30",))


def test_the_names_of_classes_without_rows_go_too(store):
    store.remove_rows("d", [str(n) for n in range(40) if n % 4 == 3])
    compact(store, "d")
    assert store.dataset("d").labels.names == ("person 0", "person 1", "person 2")


def test_nothing_is_left_and_begins_again(store):
    store.remove_rows("d", [str(n) for n in range(40)])
    compact(store, "d")
    assert (store.dataset("d").rows, store.features("d/f").rows) == (0, 0)
    assert len(store.features("d/g").status()) == len(store.features("d/g").valid_rows()) == 0
    store.append_rows("d", new_rows(3, 6))
    append(store, "f", 3)
    check(store, ["3", "4", "5"], {"f": ["3", "4", "5"], "g": []})


def test_small_pieces_become_large_ones_in_the_same_layout(store):
    for start in range(40, 112, 2):
        store.append_rows("d", new_rows(start, start + 2))
        append(store, "f", start + 2)
    before = store.features("d/f")
    ids = [str(n) for n in range(112)]
    report = compact(store, "d")
    assert [part.set for part in report.sets] == ["d/f@39"]
    assert report.sets[0].shards < report.sets[0].shards_before == 41
    assert (report.removed, store.dataset("d").layout, len(store.dataset("d").record.segments)) == (0, 1, 1)
    np.testing.assert_array_equal(before.gather(before.valid_rows()), store.features("d/f").gather(before.valid_rows()))
    check(store, ids, {"f": ids, "g": ids[:24]}, failed=("5", "30"))
    assert compact(store, "d").sets == ()


@pytest.mark.parametrize("stride", [pytest.param(41, id="sample"), pytest.param(5, id="many", marks=pytest.mark.full)])
@pytest.mark.timeout(900)
def test_a_crash_at_any_instant_and_the_same_command_again(store, tmp_path, stride):
    """Invariant 1: stop at the n-th operation; the store is whole, and the same command finishes."""
    store.remove_rows("d", GONE)
    for n in itertools.count(1, stride):
        copy = tmp_path / f"copy{n}"
        shutil.copytree(store.location, copy)
        crashed = stopped_at(n, copy, lambda store: compact(store, "d"))
        opened = Store.open(copy)
        check(opened, LEFT, {"f": LEFT, "g": IN_G}, failed=("30",))
        compact(opened, "d")
        assert (
            [opened.features(f"d/{name}").record.layout for name in "fg"] == [opened.dataset("d").layout] * 2 == [2, 2]
        )
        check(opened, LEFT, {"f": LEFT, "g": IN_G}, failed=("30",))
        shutil.rmtree(copy)
        if not crashed:
            break
    assert n > 50


def test_rows_that_come_and_go_meanwhile_are_not_lost(store, monkeypatch):
    """Invariant 4: writers get in between every two steps of a compaction, and it takes their commits in."""
    import featstore.store.compaction as module

    store.remove_rows("d", GONE)
    ids = list(LEFT)
    real_rewrite, real_commit = module.rewrite, module._commit
    meanwhile = [lambda: store.append_rows("d", new_rows(50, 52)), lambda: store.remove_rows("d", ["1"])]

    def rewrite(files, dataset, **options):
        if meanwhile:
            meanwhile.pop()()
        return real_rewrite(files, dataset, **options)

    late = [True]

    def commit(store_, part):
        if late and part.base.name == "g":  # rows that were planned before, in the old layout
            late.pop()
            old = store.dataset("d", store.dataset("d").record.earlier[-1])
            job = store.plan_features(old, "g", SPACE, np.dtype("f4"), shard_rows=8)
            for shard in job.pending():
                names = old.ids.take(range(*job.shard_range(shard)))
                digests = np.array([[int(id_) % 251 + 1] * 16 for id_ in names], np.uint8)
                job.publish(shard, np.stack([value_of(id_, "g") for id_ in names]), digests=digests)
            job.commit({})
        return real_commit(store_, part)

    monkeypatch.setattr(module, "rewrite", rewrite)
    monkeypatch.setattr(module, "_commit", commit)
    compact(store, "d")
    assert not meanwhile
    assert not late
    ids = [id_ for id_ in LEFT if id_ != "1"]
    check(store, [*ids, "50", "51"], {"f": ids, "g": [*ids, "50", "51"]}, failed=("30",))


def test_a_live_plan_is_named_and_waited_for(store):
    dataset = store.append_rows("d", new_rows(40, 48))
    store.remove_rows("d", ["1"])
    job = store.plan_features(dataset, "f", SPACE, np.dtype("f4"), shard_rows=8)
    assert job.others() == []
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_beat_and_wait, args=(job,), daemon=True)
    child.start()
    while not job.others():
        assert child.is_alive()
    [other] = job.others()
    assert (other.host, other.pid, other.here) == (socket.gethostname(), child.pid, False)
    with pytest.raises(ConflictError, match=rf"d/f is being filled by process {child.pid} on "):
        compact(store, "d")
    notes = []

    class Listener:
        note = notes.append

    job.tell_of_others(Listener())
    assert "shared shard by shard" in notes[0]
    child.kill()
    child.join()
    assert job.others() == []  # a process of this machine that has ended is not waited for
    compact(store, "d")
    job.publish(0, np.zeros((8, 3), np.float32))
    with pytest.raises(ConflictError):  # what was planned in the old layout cannot enter the new one
        job.commit({})


def _beat_and_wait(job):
    job.announce(now=True)
    os.read(os.pipe()[0], 1)


def test_heartbeats_grow_old_by_the_clock_of_the_place(store):
    job = store.plan_features(store.append_rows("d", new_rows(40, 48)), "f", SPACE, np.dtype("f4"), shard_rows=8)
    key = f"features/d/f/plans/{job.plan.segment}"
    assert beat(store.files, key) is False  # not again within 30 s
    [path] = (store.files.root / key / "alive").iterdir()
    elsewhere = path.with_name("node-7-4711.json")
    elsewhere.write_text("half writ")
    assert [(other.host, other.pid) for other in job.others()] == [("node-7", 4711)]
    os.utime(elsewhere, (0, 0))
    assert job.others() == []


def _compact(location, report):
    report.put(len(compact(Store.open(location), "d").sets))


def test_several_processes_compact_together(store):
    store.remove_rows("d", GONE)
    context = multiprocessing.get_context("spawn")
    report = context.Queue()
    workers = [context.Process(target=_compact, args=(store.location, report)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sum(report.get() for _ in workers) >= 2
    assert (store.dataset("d").layout, store.features("d/f").version) == (2, 3)
    check(store, LEFT, {"f": LEFT, "g": IN_G}, failed=("30",))


def test_a_damaged_byte_does_not_get_a_new_checksum(store):
    store.remove_rows("d", ["0"])
    path = min(store.files.root.glob("features/d/f/segments/*/features/c.1.0"))
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"c\.1\.0 holds other bytes.*\n.*featstore repair d/f"):
        compact(store, "d")
    assert store.dataset("d").layout == 1
