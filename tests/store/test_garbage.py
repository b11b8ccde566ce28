"""Collecting garbage: what is held stays, what is removed is gone from every file, and a crash in between is finished."""

import itertools
import os
import shutil
import time
from datetime import timedelta

import numpy as np
import pytest
from pydantic import BaseModel

from featstore.errors import ConflictError, CorruptStoreError, UnknownNameError
from featstore.store import NewRows, Store, verify
from featstore.store.compaction import compact
from featstore.store.garbage import collect_garbage
from featstore.store.records import dump
from tests.store.crashes import stopped_at
from tests.store.removal import GONE, IDS, VALUES, check, fill, leave_out, two_sets

pytestmark = pytest.mark.usefixtures("without_fsync")

NOW = timedelta(0)


@pytest.fixture
def store(tmp_path):
    return two_sets(tmp_path / "store")


@pytest.fixture
def compacted(store):
    """Rows were removed and left out, and the old layout is still there."""
    leave_out(store)
    return store


def bytes_of(store):
    return {
        str(path.relative_to(store.location)): path.read_bytes()
        for path in store.files.root.rglob("*")
        if path.is_file()
    }


def holders(store):
    """Files that hold an id, a class or a feature of a removed row."""
    secrets = [IDS[n].encode() for n in GONE] + [f"label {n}".encode() for n in (17, 18, 39)]
    secrets += [(VALUES[n] * factor).astype("<f4").tobytes() for n in GONE for factor in (1, 2)]
    return [name for name, data in bytes_of(store).items() if any(secret in data for secret in secrets)]


def age(store, seconds, pattern="*"):
    """Let files look as if they had been written earlier."""
    then = time.time() - seconds
    for path in store.files.root.rglob(pattern):
        if path.is_file():
            os.utime(path, (then, then))


def test_no_byte_of_a_removed_row_is_left(compacted):
    assert len(holders(compacted)) > 4
    report = collect_garbage(compacted, grace=NOW)
    assert report.kept == ()
    assert holders(compacted) == []
    check(compacted)
    for old in ("d/f@1", "d@1"):
        with pytest.raises(UnknownNameError):
            (compacted.features if "/" in old else compacted.dataset)(old)
    assert collect_garbage(compacted, grace=NOW).garbage == ()


def test_a_dry_run_says_exactly_what_goes(compacted):
    before = bytes_of(compacted)
    said = collect_garbage(compacted, grace=NOW, dry_run=True)
    assert bytes_of(compacted) == before
    done = collect_garbage(compacted, grace=NOW)
    assert done.garbage == said.garbage
    assert not done.dry_run
    after = bytes_of(compacted)
    gone = before.keys() - after.keys()
    assert (len(gone), sum(len(before[name]) for name in gone)) == (said.files, said.bytes)
    assert after == {name: data for name, data in before.items() if name not in gone}
    assert {"d@1", "d@2", "d/f@1", "d/g@1"} <= {item.where for item in said.garbage}


def test_what_is_held_stays(compacted):
    before = bytes_of(compacted)
    report = collect_garbage(compacted)
    assert report.garbage == ()
    assert sum("within the grace period" in note for note in report.kept) == 3
    assert bytes_of(compacted) == before
    # the grace period counts from the end of the old layout, however old its files are
    age(compacted, 10 * 86400, "versions/1.json")
    assert collect_garbage(compacted).garbage == ()

    compacted.tag("d/f@1", "released")
    report = collect_garbage(compacted, grace=NOW)
    assert any(
        "d/f@1 still holds rows that were removed since, because the tag released" in note for note in report.kept
    )
    np.testing.assert_array_equal(compacted.features("d/f@released").gather([0, 39 - 1]), VALUES[[0, 38]])
    assert compacted.dataset("d@2").rows == 40  # the set of the old layout is read by it
    assert holders(compacted) != []
    compacted.tag("d/f", "released")
    collect_garbage(compacted, grace=NOW)
    assert holders(compacted) == []
    check(compacted)

    compacted.remove_rows("d", [IDS[0]])
    [note] = collect_garbage(compacted, grace=NOW).kept
    assert note.startswith("1 removed rows of d are still stored; `featstore compact d`")


def test_a_set_that_compaction_has_not_reached_keeps_what_it_is_read_by(store, monkeypatch):
    import featstore.store.compaction as module

    store.remove_rows("d", [IDS[n] for n in GONE])
    real = module._commit

    def commit(store, part):
        if part.base.name == "g":
            raise KeyboardInterrupt
        return real(store, part)

    monkeypatch.setattr(module, "_commit", commit)
    with pytest.raises(KeyboardInterrupt):
        compact(store, "d")
    monkeypatch.setattr(module, "_commit", real)
    assert (store.dataset("d").layout, store.features("d/f").record.layout) == (2, 2)
    assert store.features("d/g").record.layout == 1
    collect_garbage(store, grace=NOW)
    check(store)
    compact(store, "d")
    collect_garbage(store, grace=NOW)
    check(store)
    assert holders(store) == []


@pytest.mark.parametrize("stride", [pytest.param(41, id="sample"), pytest.param(5, id="many", marks=pytest.mark.full)])
@pytest.mark.timeout(900)
def test_a_crash_at_any_instant_and_the_same_command_again(compacted, tmp_path, stride):
    """Invariant 1: stop at the n-th operation; nothing that is needed is missing, and nothing stays for ever."""
    for n in itertools.count(1, stride):
        copy = tmp_path / f"copy{n}"
        shutil.copytree(compacted.location, copy)
        crashed = stopped_at(n, copy, lambda store: collect_garbage(store, grace=NOW))
        opened = Store.open(copy)
        check(opened)
        for version in opened.history("d/f"):  # a version that is still there has all its data
            assert verify(opened, f"d/f@{version.number}", full=True).problems == []
        collect_garbage(opened, grace=NOW)
        assert holders(opened) == []
        check(opened)
        shutil.rmtree(copy)
        if not crashed:
            break
    assert n > 50


def test_unfinished_work_stays_while_somebody_is_at_it(store):
    store.append_rows("d", NewRows(ids=["x", "y"]))
    job = fill(store, "f", np.ones((2, 4), np.float32), upto=1)
    before = bytes_of(store)
    report = collect_garbage(store, grace=NOW)
    assert report.garbage == ()
    assert f"process {os.getpid()}" in report.kept[0]
    assert bytes_of(store) == before

    for path in store.files.root.rglob("alive/*"):
        os.utime(path, (0, 0))
    [note] = collect_garbage(store, grace=NOW).kept  # written to a moment ago
    assert "unfinished" in note
    age(store, 3600)
    assert collect_garbage(store).garbage == ()
    [item] = collect_garbage(store, grace=NOW).garbage
    assert (item.where, item.files) == (f"features/d/f/segments/{job.plan.segment}", 6)
    with pytest.raises(ConflictError, match="cleaned up"):
        job.commit({})
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(40)), VALUES)
    fill(store, "f", np.ones((2, 4), np.float32))
    assert store.features("d/f").rows == 42


def test_a_writer_that_wakes_up_meanwhile_is_seen(store, monkeypatch):
    """Invariant 4: whoever comes second, the collector or the writer, sees the other."""
    import featstore.store.garbage as module

    store.append_rows("d", NewRows(ids=["x", "y"]))
    job = fill(store, "f", np.ones((2, 4), np.float32), upto=1)
    age(store, 3600)
    real = module._Collection._abandoned

    def wakes_up(collection, key):
        found = real(collection, key)
        job.announce(now=True)
        return found

    monkeypatch.setattr(module._Collection, "_abandoned", wakes_up)
    collect_garbage(store, grace=NOW)
    job.commit({})
    assert store.features("d/f").take_ids(["y"]).tolist() == [[1] * 4]


def test_rows_that_nobody_committed_go_after_an_hour(store):
    assert stopped_at(22, store.location, lambda store: store.append_rows("d", NewRows(ids=["x"])))
    assert store.dataset("d").rows == 40
    assert collect_garbage(store, grace=NOW).garbage == ()
    (store.files.root / ".tmp-dead").write_bytes(b"12345")
    age(store, 4000)
    report = collect_garbage(store, grace=NOW)
    assert ".tmp-dead" in {item.where for item in report.garbage}
    assert any(item.where.startswith("datasets/d/segments/rows-") for item in report.garbage)
    check_all = store.features("d/f").gather(np.arange(40))
    np.testing.assert_array_equal(check_all, VALUES)


def test_a_reader_goes_on_reading_what_it_has_opened(compacted):
    old = compacted.features("d/f@1")
    rows = old.valid_rows()
    np.testing.assert_array_equal(old.gather(rows), VALUES[rows])
    collect_garbage(compacted, grace=NOW)
    np.testing.assert_array_equal(old.gather(rows[::-1]), VALUES[rows[::-1]])
    for first, block in old.scan():
        seen = np.isin(np.arange(first, first + len(block)), rows)
        np.testing.assert_array_equal(block[seen], VALUES[first : first + len(block)][seen])


def test_nothing_goes_while_a_version_cannot_be_read(compacted):
    path = compacted.files.root / "features/d/g/versions/1.json"
    path.write_bytes(path.read_bytes()[:-1])
    before = bytes_of(compacted)
    with pytest.raises(CorruptStoreError):
        collect_garbage(compacted, grace=NOW)
    assert bytes_of(compacted) == before


def test_a_search_index_goes_with_the_version_it_was_built_from(store):
    class Index(BaseModel):
        uuid: str
        more: int = 3

    for name, number in (("f", 1), ("g", 7)):
        folder = f"features/d/{name}/indexes/{number}"
        store.files.put_new(f"{folder}/index.faiss", [VALUES.tobytes()])
        store.files.put_new(f"{folder}/index.json", [dump(Index(uuid=store.features(f"d/{name}").record.uuid))])
    store.files.put_new("features/d/f/indexes/2/index.faiss", [VALUES.tobytes()])
    assert collect_garbage(store, grace=NOW).garbage == ()
    store.remove_rows("d", [IDS[n] for n in GONE])
    compact(store, "d")
    gone = {item.where for item in collect_garbage(store, grace=NOW).garbage}
    assert {"features/d/f/indexes/1", "features/d/g/indexes/7"} <= gone
    assert "features/d/f/indexes/2" not in gone
    age(store, 4000)
    assert "features/d/f/indexes/2" in {item.where for item in collect_garbage(store, grace=NOW).garbage}


def test_files_of_others_are_left_alone(compacted):
    note = compacted.files.root / "README"
    note.write_text("ours")
    age(compacted, 10**7)
    collect_garbage(compacted, grace=NOW)
    assert note.read_text() == "ours"
