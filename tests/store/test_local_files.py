"""Publishing in a folder: exactly one writer wins, with hard links and without."""

import errno
import multiprocessing
import os

import numpy as np
import pytest

from featstore.errors import FeatstoreError, UsageError
from featstore.spaces import Space
from featstore.store import NewRows, Store, local_files
from featstore.store.local_files import LocalFiles


def no_links(code=errno.EPERM):
    def link(*_):
        raise OSError(code, os.strerror(code))

    return link


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_publishes_by_renaming(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "link", no_links(code))
    files = LocalFiles(tmp_path)
    assert files.put_new("a/b", [b"first"])
    assert not files.put_new("a/b", [b"second"])
    assert not local_files._rename_new(tmp_path / "a" / "b", tmp_path / "a" / "b")
    (tmp_path / "other").write_bytes(b"third")
    assert not local_files._rename_new(tmp_path / "other", tmp_path / "a" / "b")
    assert files.get("a/b") == b"first"
    (tmp_path / "other").unlink()
    assert [info.key for info in files.walk()] == ["a/b"]
    assert list(files.leftovers()) == []


def test_a_whole_store_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links())
    values = np.arange(80, dtype=np.float32).reshape(20, 4)
    store = Store.init(tmp_path / "store")
    store.create_dataset("d", NewRows(ids=[str(n) for n in range(20)]))
    job = store.plan_features(store.dataset("d"), "f", Space.named("x", 4), np.dtype("f4"), shard_rows=8)
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        assert job.publish(shard, values[start:stop])
        assert not job.publish(shard, values[start:stop])
    job.commit({})
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(20)), values)


def test_a_file_system_with_neither_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links())
    monkeypatch.setattr(local_files.ctypes, "CDLL", lambda *_args, **_options: object())
    with pytest.raises(UsageError, match=r"neither link nor rename without replacing.*\n.*local disk"):
        Store.init(tmp_path / "store")
    assert not list((tmp_path / "store").rglob("*.json"))


@pytest.mark.parametrize("says_it_won", [True, False])
def test_a_place_that_overwrites_is_refused(tmp_path, says_it_won):
    class Overwriting(LocalFiles):
        def put_new(self, key, pieces):
            new = not self.exists(key)
            self.put(key, b"".join(pieces))
            return new or says_it_won

    with pytest.raises(UsageError, match="lets a second writer replace what the first one wrote"):
        Store.init(Overwriting(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_a_link_are_no_reason_to_rename(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links(errno.EIO))
    with pytest.raises(FeatstoreError, match="cannot write"):
        LocalFiles(tmp_path).put_new("a", [b"1"])
    assert list(tmp_path.iterdir()) == []


def test_a_link_whose_answer_got_lost_is_ours(tmp_path, monkeypatch):
    link = os.link

    def lost(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "as NFS says after a retry")

    files = LocalFiles(tmp_path)
    monkeypatch.setattr(os, "link", lost)
    assert files.put_new("a", [b"1"])
    assert not files.put_new("a", [b"2"])
    assert files.get("a") == b"1"


def _publish(root, barrier, results, links):
    if not links:
        os.link = no_links()
    barrier.wait()
    files = LocalFiles(root)
    results.put([files.put_new(f"{number}", [str(os.getpid()).encode()]) for number in range(50)])


@pytest.mark.parametrize("links", [True, False])
def test_of_racing_writers_exactly_one_wins(tmp_path, links):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_publish, args=(tmp_path, barrier, results, links)) for _ in range(3)]
    for worker in workers:
        worker.start()
    won = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert [sum(each) for each in zip(*won, strict=True)] == [1] * 50
