"""Readers, collections and compactions whose files another compaction and collection without grace take away under them."""

import itertools
from datetime import timedelta

import numpy as np
import pytest

from featstore.errors import CorruptStoreError, UnknownNameError
from featstore.store import NewRows, Store, collect_garbage, compact, verify
from featstore.store.garbage import _Doomed
from featstore.store.local_files import LocalFiles
from featstore.store.records import dump
from tests.store.removal import GONE, IDS, check, fill, leave_out, two_sets

pytestmark = pytest.mark.usefixtures("without_fsync")

NOW = timedelta(0)


@pytest.fixture
def store(tmp_path):
    return two_sets(tmp_path / "store")


class Meanwhile(LocalFiles):
    """Files to which something happens right before one is read, or a folder listed, for the first time."""

    def __init__(self, root, moment, act):
        super().__init__(root)
        self.moment, self.act = moment, act

    def get(self, key):
        self._happen(key)
        return super().get(key)

    def names(self, prefix):
        self._happen(prefix)
        return super().names(prefix)

    def _happen(self, key):
        if key == self.moment:
            self.moment = None
            self.act()


@pytest.mark.parametrize(
    ("moment", "read"),
    [
        ("datasets/d/versions/1.json", lambda store: store.dataset("d")),
        ("datasets/d/versions/1.json", lambda store: store.append_rows("d", NewRows(ids=["x"]))),
        ("datasets/d/versions/1.json", lambda store: store.history("d")),
        ("features/d/f/versions/1.json", lambda store: store.features("d/f")),
        ("features/d/f/versions/1.json", lambda store: store.history("d/f")),
        ("features/d/f/versions/1.json", lambda store: verify(store, "d/f").problems == [] or pytest.fail("damage")),
        ("datasets/d/versions", lambda store: store.features("d/f")),  # its rows go after the set was read
    ],
)
def test_a_version_may_go_between_its_listing_and_its_reading(store, moment, read):
    def act():
        leave_out(store)
        collect_garbage(store, grace=NOW)

    files = Meanwhile(store.files.root, moment, act)
    read(Store(files))
    assert files.moment is None
    check(store)


def test_a_version_that_went_is_no_version(store):
    files = Meanwhile(
        store.files.root, "features/d/f/versions/1.json", lambda: store.files.delete(["features/d/f/versions/1.json"])
    )
    with pytest.raises(UnknownNameError, match="no version of feature set d/f called '1'"):
        Store(files).features("d/f@1")
    store.tag("d/g", "live")
    store.append_rows("d", NewRows(ids=["x"]))
    fill(store, "g", np.ones((1, 4), np.float32))
    store.files.delete(["features/d/g/versions/1.json"])
    with pytest.raises(CorruptStoreError, match="tag live of feature set d/g names version 1, which is gone"):
        store.features("d/g@live")


@pytest.mark.parametrize(
    "taken",
    [
        "datasets/d/versions/1.json",
        "features/d/f/versions/1.json",
        "features/d/f/plans/*/plan.json",
        "features/d/f/indexes/1/index.json",
        "gc/begun.json",
    ],
)
def test_what_another_collection_took_first_is_no_error(store, taken):
    leave_out(store)
    store.append_rows("d", NewRows(ids=["x", "y"]))
    job = fill(store, "f", np.ones((2, 4), np.float32), upto=1)
    store.files.put_new("gc/begun.json", [dump(_Doomed(segments=()))])
    store.files.put_new("features/d/f/indexes/1/index.json", [b'{"uuid": "of an older version"}'])
    key = taken.replace("*", job.plan.segment)
    files = Meanwhile(store.files.root, key, lambda: store.files.delete([key]))
    collect_garbage(Store(files), grace=NOW)
    assert files.moment is None
    check(store)


def append(store):
    store.append_rows("d", NewRows(ids=["x", "y"]))
    fill(store, "f", np.ones((2, 4), np.float32))


class AtRead(Meanwhile):
    """The same at the n-th reading or listing, whatever it is of."""

    def _happen(self, _):
        self.moment -= 1
        if not self.moment:
            self.act()


@pytest.mark.parametrize("stride", [pytest.param(29, id="sample"), pytest.param(3, id="many", marks=pytest.mark.full)])
@pytest.mark.parametrize("act", [append, lambda store: compact(store, "d")], ids=["append", "compact"])
def test_a_compaction_beside_other_writers_begins_anew(tmp_path, act, stride):
    for n in itertools.count(1, stride):
        store = two_sets(tmp_path / f"store{n}")
        store.remove_rows("d", [IDS[row] for row in GONE])

        def meanwhile(store=store):
            act(store)
            collect_garbage(store, grace=NOW)

        files = AtRead(store.files.root, n, meanwhile)
        report = compact(Store(files), "d")
        check(store)
        assert report.dataset == f"d@{store.dataset('d').version}"
        assert len(store.dataset("d").removed_rows) == 0
        if files.moment > 0:
            break
    assert n > 50
