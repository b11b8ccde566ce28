"""Invariant 1: kill at any instant, and the same command again finishes the job with the same ids and features."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from featstore.errors import FeatstoreError
from featstore.extract import ExtractRequest, extract
from featstore.store import Store
from tests.extract import factories
from tests.extract.conftest import Recorder, make_images, one_by_one, one_colour

REPO = Path(__file__).parents[2]
SLOW = "python:tests.extract.factories:slow"
WORKERS = 2


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many") / "images"
    make_images(root, 256)
    (root / "c0/bad.jpg").write_bytes(b"<html>")
    return root


@pytest.fixture(scope="module")
def undisturbed(many, tmp_path_factory):
    store = Store.init(tmp_path_factory.mktemp("clean") / "store")
    extract(store, ExtractRequest(source=str(many), dataset="d", models={"f": SLOW}, workers=1))
    return store.features("d/f")


def start(store, source, uri=SLOW, workers=WORKERS):
    command = [sys.executable, "-m", "tests.extract.run_extract", store.location, str(source), "d", str(workers)]
    return subprocess.Popen(
        [*command, f"f={uri}"],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def published(store):
    """Completed shards: what their sidecars say, and when they were written."""
    found = sorted((store.files.root / "features").rglob("shards/*.json"))
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def shard_files(store):
    """Everything published so far below features/, by inode: a rewritten file would have another one."""
    files = [p for p in (store.files.root / "features").rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended early: {process.communicate()}")
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def check_equal(store, undisturbed):
    features = store.features("d/f")
    assert list(features.dataset.ids) == list(undisturbed.dataset.ids)
    np.testing.assert_array_equal(features.status(), undisturbed.status())
    np.testing.assert_array_equal(features.input_digests(), undisturbed.input_digests())
    rows = undisturbed.valid_rows()
    assert len(rows) == features.rows - 1
    np.testing.assert_allclose(features.gather(rows), undisturbed.gather(rows), atol=1e-6)


def kill_and_finish(tmp_path, many, undisturbed, kills, seed):
    moments = random.Random(seed)
    store = Store.init(tmp_path / "store")
    kept, files = {}, {}
    for number in range(kills):
        process, had = start(store, many), len(kept)
        # the first seconds go into imports; the moments count from the first sign of work, which is the plan or a shard
        if number == 0:
            wait_for(lambda: store.has_dataset("d"), process)
        else:
            wait_for(lambda had=had: len(published(store)) > had, process)
        time.sleep(moments.uniform(0, 0.2))
        if number % 3 == 2:  # the parent alone; its workers must notice by themselves
            workers = children(process.pid)
            process.kill()
            process.communicate()
            wait_until_gone(workers)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        kept, files = published(store), shard_files(store)
        if sum(json.loads(data)["rows"] for data, _ in kept.values()) > 200:
            break  # so that there is something left to finish
    request = ExtractRequest(source=str(many), dataset="d", models={"f": SLOW}, workers=1)
    report = extract(store, request)
    check_equal(store, undisturbed)
    after, now = published(store), shard_files(store)
    assert {path: after[path] for path in kept} == kept
    assert {path: now[path] for path in files} == files
    # exactly the shards that were not completed are computed again: at most one that each worker had begun
    assert report.encoded == 257 - sum(json.loads(data)["rows"] for data, _ in kept.values())
    return kept


def wait_until_gone(pids):
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def test_killed_at_random_moments_it_finishes_as_if_undisturbed(tmp_path, many, undisturbed):
    assert kill_and_finish(tmp_path, many, undisturbed, kills=3, seed=os.getpid())


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("round_", range(3))
def test_killed_more_often(tmp_path, many, undisturbed, round_):
    kill_and_finish(tmp_path, many, undisturbed, kills=10, seed=round_)


def check_interrupted(store, many, undisturbed):
    kept = published(store)
    assert 0 < len(kept) < 257 // 8 + 1
    # nothing half done: every shard file has its sidecar
    shards = {p.name.split(".")[1] for p in store.files.root.glob("features/d/f/segments/*/features/c.*.0")}
    assert shards == {path.stem for path in kept}
    extract(store, ExtractRequest(source=str(many), dataset="d", models={"f": SLOW}, workers=1))
    assert {path: value for path, value in published(store).items() if path in kept} == kept
    check_equal(store, undisturbed)


def test_ctrl_c_lets_the_workers_finish_their_shards(tmp_path, many, undisturbed):
    store = Store.init(tmp_path / "store")
    process = start(store, many)
    wait_for(lambda: published(store), process)
    os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to the whole group
    _, err = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in err
    assert b"Process SpawnProcess" not in err
    check_interrupted(store, many, undisturbed)


def test_failures_in_the_rest_are_judged_by_all_images_as_without_the_interruption(tmp_path):
    make_images(tmp_path / "images", 60)
    for n in range(3):  # 5 % of all, and more of what the interruption leaves
        (tmp_path / f"images/c2/9{n}.jpg").write_bytes(b"<html>")
    store = Store.init(tmp_path / "store")
    request = ExtractRequest(source=str(tmp_path / "images"), dataset="d", models={"f": SLOW}, workers=1, batch=8)
    with pytest.raises(KeyboardInterrupt):
        extract(store, request, _Pressing(40))
    report = extract(store, request)
    assert (report.cached, report.encoded, report.failed) == (40, 23, 3)


class _Pressing(Recorder):
    """Presses Ctrl-C after some images."""

    def __init__(self, *moments):
        super().__init__()
        self.moments = moments

    def advance(self, n):
        super().advance(n)
        if self.advanced in self.moments:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_finishes_the_current_shard_in_this_process(tmp_path, many, undisturbed):
    store = Store.init(tmp_path / "store")
    request = ExtractRequest(source=str(many), dataset="d", models={"f": SLOW}, workers=1, batch=4)
    shard = plan_rows(undisturbed)
    before = signal.getsignal(signal.SIGINT)
    presses = _Pressing(shard + 4)
    with pytest.raises(KeyboardInterrupt):
        extract(store, request, presses)
    assert presses.advanced == 2 * shard
    assert any("interrupt again" in note for note in presses.notes)
    check_interrupted(store, many, undisturbed)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path, many, undisturbed):
    store = Store.init(tmp_path / "store")
    request = ExtractRequest(source=str(many), dataset="d", models={"f": SLOW}, workers=1, batch=4)
    shard = plan_rows(undisturbed)
    presses = _Pressing(shard + 4, shard + 8)
    with pytest.raises(KeyboardInterrupt):
        extract(store, request, presses)
    assert presses.advanced == shard + 8
    assert len(published(store)) == 1


def plan_rows(features):
    return features.record.segments[0].shard_rows


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    root = tmp_path / "images"
    make_images(root, 40)
    one_colour(root / "c1/white.png", 255)
    monkeypatch.setenv("TEST_PARENT", str(os.getpid()))
    monkeypatch.setenv("TEST_FLAG", str(tmp_path / "died"))
    return root


def test_the_shards_of_a_worker_that_dies_are_taken_over_once(tmp_path, deadly, recorder):
    store = Store.init(tmp_path / "store")
    models = {"f": "python:tests.extract.factories:dies_once", "new": "python:tests.extract.factories:new"}
    request = ExtractRequest(source=str(deadly), dataset="d", models=models, workers=2)
    report = extract(store, request, recorder)
    assert (tmp_path / "died").exists()
    assert (report.encoded, report.failed, recorder.advanced) == (41, 0, 41)
    assert recorder.tasks == [("extract d", 41, "images", 0)]
    ids = list(store.dataset("d").ids)
    for name, encoder in (("f", factories.old()), ("new", factories.new())):
        features = store.features(f"d/{name}").gather(np.arange(41))
        np.testing.assert_allclose(features, one_by_one(deadly, encoder, ids), atol=1e-6)


def test_a_worker_that_dies_again_is_an_error_with_advice(tmp_path, deadly):
    store = Store.init(tmp_path / "store")
    models = {"f": "python:tests.extract.factories:dies_always"}
    with pytest.raises(FeatstoreError, match=r"died twice \(signal SIGKILL\)") as caught:
        extract(store, ExtractRequest(source=str(deadly), dataset="d", models=models, workers=2))
    assert "--batch" in caught.value.hint
