"""Invariants 1, 2 and 9: whatever operation fails, nothing acknowledged is lost and the same command finishes."""

import contextlib
import errno
import io
import itertools
import os
import shutil

import pytest

from featstore.errors import FeatstoreError
from featstore.store import Store, repair, verify
from featstore.store.local_files import LocalFiles
from featstore.testing import Fault, FaultyFiles
from tests.faults.job import check_prefix, content, run

KINDS = ("fail", "lose", "tear")
LOSABLE = ("fsync", "link", "unlink", "mkdir")  # calls that can have happened although they report an error


def check_after(root, done, undisturbed):
    """After whatever went wrong: sound at once, and finished by the same command."""
    if (root / "featstore.json").exists():
        check_prefix(Store.open(root), done)
    else:
        assert not done
    store = run(root)
    assert content(store) == content(undisturbed)
    assert verify(store, full=True).problems == []
    shutil.rmtree(root)


def run_or_explain(where, done):
    """Run the job; if it stops, then with a typed error that says what to do."""
    stopped = None
    try:
        run(where, done)
    except FeatstoreError as error:
        stopped = error
    assert stopped is None or stopped.hint


def run_faulty(root, fault, undisturbed):
    files, done = FaultyFiles(LocalFiles(root), fault), []
    run_or_explain(files, done)
    check_after(root, done, undisturbed)


@pytest.fixture
def operations(place):
    """How many operations on its files the job takes."""
    files = FaultyFiles(LocalFiles(place / "counted"))
    run(files)
    return len(files.log)


def test_any_operation_may_fail(place, undisturbed, operations):
    """A quarter of the operations; the ways take turns."""
    for turn, n in enumerate(range(1, operations + 1, 4)):
        run_faulty(place / "store", Fault(KINDS[turn % len(KINDS)], at=n), undisturbed)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_any_operation_may_fail_in_any_way(place, undisturbed, operations):
    for n, kind, persistent in itertools.product(range(1, operations + 1), KINDS, (False, True)):
        run_faulty(place / "store", Fault(kind, at=n, persistent=persistent), undisturbed)


class FaultySystem:
    """Counts the calls to the operating system that are about files below a folder, and lets the n-th fail.

    `lose` does the call and then reports an error, as a network file system does whose answer got lost.
    """

    def __init__(self, monkeypatch, root, at=0, *, lose=False):
        self.calls = []
        self._root, self._at, self._lose = str(root), at, lose
        for name in ("write", "fsync", "link", "unlink", "mkdir", "rmdir", "stat", "listdir", "scandir", "open"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        monkeypatch.setattr(io, "open", self._wrapped("open", io.open))

    def _wrapped(self, name, original):
        def call(what, *args, **kwargs):
            path = original_readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)
            if not str(path).startswith(self._root):
                return original(what, *args, **kwargs)
            self.calls.append((name, str(path)[len(self._root) :]))
            if len(self.calls) == self._at:
                if self._lose and name in LOSABLE:
                    original(what, *args, **kwargs)
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return original(what, *args, **kwargs)

        original_readlink = os.readlink
        return call


def system_calls(place):
    with pytest.MonkeyPatch.context() as patch:
        system = FaultySystem(patch, place / "counted")
        run(place / "counted")
    return system.calls


def run_in_faulty_system(root, at, undisturbed, *, lose):
    done = []
    with pytest.MonkeyPatch.context() as patch:
        system = FaultySystem(patch, root, at, lose=lose)
        run_or_explain(root, done)
        assert len(system.calls) >= at
    check_after(root, done, undisturbed)


def test_any_call_to_the_system_may_fail(place, undisturbed):
    calls = len(system_calls(place))
    for turn, at in enumerate(range(1, calls, calls // 24)):
        run_in_faulty_system(place / "store", at, undisturbed, lose=bool(turn % 2))


@pytest.mark.full
@pytest.mark.timeout(900)
def test_each_call_to_the_system_may_fail(place, undisturbed):
    for at, (name, _) in enumerate(system_calls(place), start=1):
        run_in_faulty_system(place / "store", at, undisturbed, lose=False)
        if name in LOSABLE:
            run_in_faulty_system(place / "store", at, undisturbed, lose=True)


def test_bytes_are_durable_before_their_name_and_the_name_before_the_answer(place):
    """Invariant 2, as far as calls show it: write, fsync, link, fsync of the folder; folders are synced where they are made."""
    calls = system_calls(place)
    links = [number for number, (name, _) in enumerate(calls) if name == "link"]
    assert len(links) > 50
    for number in links:
        temporary = calls[number][1]
        assert ("fsync", temporary) in calls[:number]
        last_write = max(n for n, call in enumerate(calls[:number]) if call == ("write", temporary))
        assert ("fsync", temporary) in calls[last_write:number]
        assert ("fsync", temporary.rpartition("/")[0]) in calls[number : number + 4]
    for number, (name, path) in enumerate(calls):
        if name == "mkdir" and path:  # what holds the store itself lies outside of what is watched
            assert ("fsync", path.rpartition("/")[0]) in calls[number : number + 3]


def damage(root):
    """Of a copy of the store: a shard, a chunk of ids and a record are other bytes or gone."""
    for pattern, change in {
        "features/d/f/segments/*/features/c.0.0": lambda data: data[:8] + b"\x01" + data[9:],
        "datasets/d/segments/rows-*/ids/bytes/c.0": lambda data: data[:-1],
        "features/d/f/plans/*/shards/1.json": None,
    }.items():
        path = min(root.glob(pattern))
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes()))


def repair_with(undisturbed, root, fault=None):
    files = FaultyFiles(LocalFiles(root), *([fault] if fault else []))
    repair(Store.open(files), copy=undisturbed.location)
    return len(files.log)


def test_a_repair_may_stop_anywhere(place, undisturbed):
    """The same command goes on, and puts back what was there bit for bit."""
    damaged, root = place / "damaged", place / "store"
    shutil.copytree(undisturbed.location, damaged)
    damage(damaged)
    assert verify(Store.open(damaged), full=True).problems
    operations = repair_with(undisturbed, shutil.copytree(damaged, root))
    for turn, at in enumerate(range(1, operations, operations // 10)):
        shutil.rmtree(root)
        shutil.copytree(damaged, root)
        with contextlib.suppress(FeatstoreError):
            repair_with(undisturbed, root, Fault(KINDS[turn % len(KINDS)], at=at, persistent=bool(turn % 2)))
        repair_with(undisturbed, root)
        store = Store.open(root)
        assert verify(store, full=True).problems == []
        assert content(store) == content(undisturbed)
