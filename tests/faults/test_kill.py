"""Invariants 1, 2 and 4: writers are killed, stopped and resumed at any point; nothing published is lost or changed."""

import os
import random
import signal
import time

import numpy as np
import pytest

from featstore.store import NewRows, Store, verify
from featstore.store.local_files import LocalFiles
from featstore.testing import FaultyFiles
from tests.faults.job import SPACE, VALUES, check_prefix, content, run
from tests.faults.writers import run_together

WRITERS = 3


def published(root):
    """Every published file, by inode and time: a rewritten one would have others. Heartbeats are meant to be rewritten."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    kept = (path for path in files if "probe-" not in path.name and path.parent.name != "alive")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept}


def check_killed(root, before, undisturbed):
    """After a kill: what was published is still the same, and the store opens; True if the job is finished."""
    after = published(root)
    assert {path: after.get(path) for path in before} == before
    if not (root / "featstore.json").exists():
        return False
    store = Store.open(root)
    check_prefix(store, [])
    return content(store) == content(undisturbed)


def check_finished(root, undisturbed):
    store = run(root)
    assert content(store) == content(undisturbed)
    assert verify(store, full=True).problems == []


def kill_at_random(writers, place, undisturbed, kills, seed):
    """Kill all writers, or some, at random moments, until that many were killed; each store is finished in the end."""
    choose = random.Random(seed)
    began = time.monotonic()
    assert [writers.wait(pid) for pid in [writers.start("work", str(place / "timed"), n) for n in range(WRITERS)]] == [
        0
    ] * 3
    usual = time.monotonic() - began
    killed = stores = 0
    while killed < kills:
        root, finished = place / f"store{stores}", False
        while killed < kills and not finished:
            before = published(root)
            pids = [writers.start("work", str(root), n) for n in range(WRITERS)]
            time.sleep(choose.uniform(0, usual / 2))
            for pid in choose.sample(pids, choose.choice([1, WRITERS])):
                os.kill(pid, signal.SIGKILL)
            ends = [writers.wait(pid) for pid in pids]
            assert set(ends) <= {0, -signal.SIGKILL}
            killed += -signal.SIGKILL in ends
            finished = check_killed(root, before, undisturbed)
        check_finished(root, undisturbed)
        stores += 1


def test_killed_at_random_moments(writers, place, undisturbed):
    kill_at_random(writers, place, undisturbed, kills=4, seed=os.getpid())


@pytest.mark.full
@pytest.mark.timeout(900)
def test_killed_at_fifty_random_moments(writers, place, undisturbed):
    kill_at_random(writers, place, undisturbed, kills=50, seed=50)


def operations(place, choose=lambda operation: True):  # noqa: ARG005
    files = FaultyFiles(LocalFiles(place / "counted"))
    run_together(files)
    return sum(map(choose, files.log))


def kill_at(writers, root, undisturbed, at):
    """A writer dies in the middle of one operation, leaving half a temporary file; another then finishes."""
    assert writers.wait(writers.start("work", str(root), kind="kill", at=at)) == -signal.SIGKILL
    check_killed(root, {}, undisturbed)
    check_finished(root, undisturbed)


def test_killed_at_one_operation(writers, place, undisturbed):
    for at in range(1, operations(place), 31):
        kill_at(writers, place / f"store{at}", undisturbed, at)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_killed_at_every_operation(writers, place, undisturbed):
    for at in range(1, operations(place) + 1):
        kill_at(writers, place / f"store{at}", undisturbed, at)


def pause_at(writers, root, undisturbed, at):
    """A writer is stopped at its n-th publication; another does the whole job; the first goes on and changes nothing."""
    stopped = writers.start("work", str(root), kind="pause", operation="put_new", at=at)
    assert writers.wait(stopped) == -signal.SIGSTOP
    assert writers.wait(writers.start("work", str(root), 1)) == 0
    before = published(root)
    check_finished(root, undisturbed)
    os.kill(stopped, signal.SIGCONT)
    assert writers.wait(stopped) == 0
    after = published(root)
    assert {path: after[path] for path in before} == before
    check_finished(root, undisturbed)


def test_a_stopped_writer_goes_on_after_another_finished(writers, place, undisturbed):
    for at in range(1, operations(place, lambda operation: operation.name == "put_new"), 17):
        pause_at(writers, place / f"store{at}", undisturbed, at)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_writer_stopped_at_any_publication_goes_on(writers, place, undisturbed):
    for at in range(1, operations(place, lambda operation: operation.name == "put_new") + 1):
        pause_at(writers, place / f"store{at}", undisturbed, at)


def commit_at_once(writers, root, commits):
    store = Store.init(root)
    store.create_dataset("d", NewRows(ids=["first"]))
    job = store.plan_features(store.dataset("d"), "f", SPACE, np.dtype("f4"), shard_rows=8)
    job.publish(0, VALUES[:1])
    job.commit({})
    pids = [writers.start("append_many", str(root), number, commits) for number in range(4)]
    assert [writers.wait(pid) for pid in pids] == [0] * 4
    dataset = store.dataset("d")
    assert dataset.version == dataset.rows == 4 * commits + 1
    assert sorted(dataset.ids) == sorted(["first", *(f"{w}-{n}" for w in range(4) for n in range(commits))])
    assert [version.rows for version in store.history("d")] == list(range(dataset.rows, 0, -1))
    tags = store.files.root / "features/d/f/tags"
    assert sorted(int(path.stem) for path in (tags / "shared").iterdir()) == list(range(1, 4 * commits + 1))
    assert [len(list((tags / f"writer{number}").iterdir())) for number in range(4)] == [commits] * 4
    assert verify(store, full=True).problems == []


def test_four_writers_lose_no_commit(writers, place):
    """Invariant 4."""
    commit_at_once(writers, place / "store", commits=8)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_four_writers_lose_none_of_many_commits_on_disk(writers, tmp_path):
    commit_at_once(writers, tmp_path / "store", commits=60)
