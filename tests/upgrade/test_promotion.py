"""An upgrade is a change with a way back: nothing that is served changes but by one append to a tag."""

import shutil

import numpy as np
import pytest

from featstore.errors import (
    AlignmentError,
    AlreadyExistsError,
    FeatstoreError,
    NotFoundError,
    SpaceMismatchError,
    UnknownNameError,
    UsageError,
)
from featstore.maps import load_map, map_block
from featstore.store import Store, verify
from featstore.store.local_files import LocalFiles
from featstore.testing import Fault, FaultyFiles
from featstore_training import AdapterConfig, fit_adapter
from featstore_training.upgrade import UpgradePath, promote, rollback, run_backfill, run_upgrade
from tests.upgrade.conftest import N

PATH = UpgradePath(old="shop/mapped", new="shop/new", backfill=0.5, order="row")
GALLERY = "shop/gallery"


@pytest.fixture(scope="module")
def runs(_made, tmp_path_factory):
    """Adapters between the old and the new set, either way."""
    folder = tmp_path_factory.mktemp("runs")
    for name, direction in (("up", "old-to-new"), ("down", "new-to-old")):
        config = AdapterConfig(loss="ridge", old="shop/old", new="shop/new", direction=direction)
        fit_adapter(Store.open(_made), config, folder / name)
    return folder


def test_run_promote_and_roll_back(store, features):
    report = run_upgrade(store, GALLERY, PATH)
    assert (report.set, report.live, report.promoted, report.cached) == (
        "shop/gallery@2",
        "shop/gallery@1",
        False,
        False,
    )
    assert (report.gate.passed, report.backfilled) == (True, 100)
    assert np.array_equal(store.features("shop/gallery@live").gather(np.arange(N)), features["mapped"])
    moved = promote(store, GALLERY)
    assert (moved.set, moved.before, moved.moved) == ("shop/gallery@2", "shop/gallery@1", True)
    assert store.features("shop/gallery@live").version == 2
    assert not promote(store, GALLERY).moved
    third = run_upgrade(store, GALLERY, PATH.model_copy(update={"backfill": 0.75}), promote_passed=True)
    assert (third.set, third.promoted) == ("shop/gallery@3", True)
    assert rollback(store, GALLERY).set == "shop/gallery@2"
    assert promote(store, "shop/gallery@3").moved
    assert rollback(store, GALLERY).set == "shop/gallery@2"
    assert rollback(store, GALLERY).set == "shop/gallery@1"
    with pytest.raises(NotFoundError, match="before version 1"):
        rollback(store, GALLERY)
    assert np.array_equal(store.features("shop/gallery@live").gather(np.arange(N)), features["mapped"])
    moves = [(entry.version, entry.note.split(":")[0]) for entry in store.tag_entries(GALLERY, "live")]
    assert moves == [
        (1, "begins"), (2, "promoted"), (3, "promoted"), (2, "rolled back from version 3"), (3, "promoted"),
        (2, "rolled back from version 3"), (1, "rolled back from version 2"),
    ]  # fmt: skip
    assert [[move.version for move in version.moves] for version in store.history(GALLERY)] == [
        [3] * 2,
        [2] * 3,
        [1] * 2,
    ]
    assert verify(store, full=True).problems == []


def test_the_gallery_through_a_map_and_backfilled(store, runs, features):
    path = UpgradePath(old="shop/old", new="shop/new", map=runs / "up", backfill=0.25, order="-popularity")
    report = run_upgrade(store, GALLERY, path)
    gallery = store.features(report.set)
    mapped = map_block(load_map(runs / "up").module, features["old"])
    new = gallery.part_of_rows() == 1
    assert new.sum() == report.backfilled == 50
    expected = np.where(new[:, None], features["new"], mapped)
    assert np.allclose(gallery.gather(np.arange(N)), expected, atol=1e-6)
    assert report.gate.result.cell("new/candidate").n_queries > 0
    again = run_upgrade(store, GALLERY, path)
    assert (again.set, again.cached, again.bytes_written) == (report.set, True, 0)


def test_a_map_of_queries_rewrites_no_row(store, runs):
    path = UpgradePath(old="shop/old", new="shop/new", query_map=runs / "down")
    report = run_upgrade(store, GALLERY, path)
    assert (report.set, report.bytes_written, report.cached) == ("shop/gallery@2", 0, False)
    versions = [store.features(f"shop/gallery@{number}").record for number in (1, 2)]
    assert versions[0].segments == versions[1].segments
    assert versions[1].provenance["path"] == "queries through down"
    assert [gate.expression for gate in report.gate.gates] == ["mapped-new/candidate.map > old/old.map"]
    same = path.model_copy(update={"gates": ("mapped-new/candidate.map >= mapped-new/old.map",)})
    assert run_upgrade(store, GALLERY, same).gate.passed


def test_what_does_not_pass_is_not_promoted(store):
    path = PATH.model_copy(update={"gates": ("new/candidate.map > 0.999",)})
    report = run_upgrade(store, GALLERY, path, promote_passed=True)
    assert (report.gate.passed, report.promoted, report.live) == (False, False, "shop/gallery@1")
    assert not promote(store, GALLERY).moved
    assert store.features("shop/gallery@live").version == 1
    assert promote(store, GALLERY, force=True).moved
    with pytest.raises(UnknownNameError, match=r"new/candidat'(.|\n)*did you mean new/candidate"):
        run_upgrade(store, "shop/other", PATH.model_copy(update={"gates": ("new/candidat.map > 0",)}))
    assert not store.has_features("shop/other")
    with pytest.raises(FeatstoreError, match="cannot read the gate"):
        run_upgrade(store, "shop/other", PATH.model_copy(update={"gates": ("map better",)}))
    assert not store.has_features("shop/other")


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (UpgradePath(old="shop/old", new="shop/new"), AlignmentError, "cannot search a gallery of width 6"),
        (UpgradePath(old="shop/unrelated", new="shop/new"), SpaceMismatchError, "nothing declares comparable"),
        (UpgradePath(old="shop/mapped", new="shop/new", side=("shop/old",)), UsageError, "--side"),
    ],
)
def test_a_path_that_leads_nowhere_writes_nothing(store, path, error, message):
    with pytest.raises(error, match=message):
        run_upgrade(store, GALLERY, path)
    assert not store.has_features(GALLERY)
    with pytest.raises(AlreadyExistsError, match="no backfill or upgrade made it"):
        run_upgrade(store, "shop/old", PATH)


def test_what_no_upgrade_made_is_promoted_by_force_only(store):
    run_backfill(store, "shop/mapped", GALLERY, new="shop/new", budget=0.5)
    with pytest.raises(UsageError, match="no upgrade made"):
        promote(store, GALLERY)
    assert promote(store, GALLERY, force=True).moved
    with pytest.raises(NotFoundError, match="before version 1"):
        rollback(store, GALLERY)


@pytest.mark.parametrize(
    ("key", "at"), [(r"tags/live", 1), (r"tags/live", 2), (r"gallery/versions", 2), (r"/mixture-", 1)]
)
def test_a_crash_leaves_what_is_served_and_the_same_call_goes_on(root, tmp_path, key, at):
    place = LocalFiles(shutil.copytree(root, tmp_path / "place"))
    fault = Fault("fail", at=at, operation="put_new", key=key)
    with pytest.raises(FeatstoreError):
        run_upgrade(Store(FaultyFiles(place, fault)), GALLERY, PATH, promote_passed=True)
    store = Store.open(place.root)
    served = [entry.version for entry in store.tag_entries(GALLERY, "live")]
    assert served == ([] if (key, at) == ("tags/live", 1) else [1])
    report = run_upgrade(store, GALLERY, PATH, promote_passed=True)
    assert (report.set, report.promoted) == ("shop/gallery@2", True)
    assert [version.number for version in store.history(GALLERY)] == [2, 1]
    assert [entry.version for entry in store.tag_entries(GALLERY, "live")] == [1, 2]
    assert verify(store, GALLERY, full=True).problems == []
