"""Partial backfill: every row is the one it should be, and every row knows which model it is from."""

import shutil
from datetime import timedelta

import numpy as np
import pytest

from featstore.encoders import load_encoder
from featstore.errors import (
    AlignmentError,
    AlreadyExistsError,
    FeatstoreError,
    IncompleteError,
    SpaceMismatchError,
    UsageError,
)
from featstore.evaluate import EvalRequest, evaluate
from featstore.extract import ExtractRequest, doctor, extract
from featstore.spaces import Space, comparable
from featstore.store import Store, collect_garbage, compact, compare, repair, verify
from featstore.store.local_files import LocalFiles
from featstore.store.records import FeatureSetVersion, dump, load
from featstore.testing import Fault, FaultyFiles
from featstore_training.upgrade import backfill_order, run_backfill
from tests.extract.conftest import make_images
from tests.store_factory import add_set
from tests.upgrade.conftest import LACKING, MAPPED, NEW, N

MODELS = "python:tests.extract.factories:"


def parts_of(features):
    return {space.name: np.flatnonzero(features.part_of_rows() == k) for k, space in enumerate(features.parts)}


def test_a_share_of_the_rows_is_new(store, features):
    report = run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0.25, order="-popularity")
    assert (report.rows, report.wanted, report.backfilled, report.encoded) == (N, 50, 50, 0)
    gallery = store.features("shop/gallery")
    order = [int(text.removesuffix(".jpg")) for text in backfill_order(store, "shop/mapped", "-popularity")]
    popularity = store.dataset("shop").column("popularity")
    assert np.all(np.diff(popularity[order]) <= 0)
    chosen = [row for row in order if row not in LACKING][:50]
    expected = features["mapped"].copy()
    expected[chosen] = features["new"][chosen]
    assert np.array_equal(gallery.gather(np.arange(N)), expected)
    assert sorted(parts_of(gallery)["new"]) == sorted(chosen)
    assert gallery.rows_by_space() == [("lifted", N - 50), ("new", 50)]
    assert verify(store, "shop/gallery", full=True).problems == []
    again = run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0.25, order="-popularity")
    assert (again.cached, again.set, again.bytes_written) == (True, "shop/gallery@1", 0)


def test_the_stored_gallery_is_the_point_of_the_curve(store, tmp_path):
    rows = [row for row in np.random.default_rng(2).permutation(N) if row not in LACKING]
    (order := tmp_path / "order.txt").write_text("".join(f"{row}.jpg\n" for row in rows))
    # rows without a new feature count in neither
    (left := tmp_path / "rows.txt").write_text("".join(f"{row}.jpg\n" for row in range(N) if row not in LACKING))
    request = EvalRequest(
        old="shop/mapped",
        new="shop/new",
        where=(f"id=@{left}",),
        backfill=(f"@{order}",),
        backfill_steps=4,
        bootstrap=0,
    )
    [curve] = evaluate(store, request).backfill
    for step, share in ((1, 49 / N), (2, 98 / N), (3, 147 / N)):
        made = run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=share, order=f"@{order}")
        single = EvalRequest(query="shop/new", gallery=made.set, where=(f"id=@{left}",), bootstrap=0)
        assert evaluate(store, single).cells[0].metrics["map"] == pytest.approx(curve.metrics["map"][step].value)


def test_no_row_and_all_rows_are_no_mixture(store, features):
    run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0)
    gallery = store.features("shop/gallery")
    assert (gallery.record.mixture, gallery.space.digest) == (None, MAPPED.digest)
    assert np.array_equal(gallery.gather(np.arange(N)), features["mapped"])
    add_set(store, "shop", "whole", features["new"], space=NEW)
    run_backfill(store, "shop/mapped", "shop/gallery", new="shop/whole", budget=1)
    gallery = store.features("shop/gallery")
    assert (gallery.version, gallery.record.mixture, gallery.space.digest) == (2, None, NEW.digest)
    assert np.array_equal(gallery.gather(np.arange(N)), features["new"])
    report = run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=1)
    assert (report.backfilled, report.lacking, report.wanted) == (N - len(LACKING), len(LACKING), N)
    assert parts_of(store.features("shop/gallery"))["lifted"].tolist() == list(LACKING)
    assert store.features("shop/gallery@1").space.digest == MAPPED.digest


def test_a_larger_budget_keeps_the_rows_of_a_smaller_one(store):
    for number, budget in enumerate((0.1, 0.3, 0.1), 1):
        run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=budget, seed=4)
        assert store.features("shop/gallery").version == number
    small, large, back = (parts_of(store.features(f"shop/gallery@{n}"))["new"] for n in (1, 2, 3))
    assert set(small) < set(large)
    assert np.array_equal(small, back)
    assert store.features("shop/gallery@1").record.segments == store.features("shop/gallery@3").record.segments
    found = {field.field: (field.left, field.right) for field in compare(store, version(1), version(2)).fields}
    assert found == {"rows in lifted": ("180", "140"), "rows in new": ("20", "60")}


def version(number):
    return f"shop/gallery@{number}"


def test_what_may_be_compared_with_a_mixed_gallery(store):
    run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0.5)
    gallery = store.features("shop/gallery").space
    assert comparable(gallery, NEW)
    assert comparable(NEW, gallery)
    assert not comparable(gallery, store.features("shop/unrelated").space)
    evaluate(store, EvalRequest(query="shop/new", gallery="shop/gallery", bootstrap=0))
    with pytest.raises(SpaceMismatchError, match="parts"):
        evaluate(store, EvalRequest(query="shop/unrelated", gallery="shop/gallery", bootstrap=0))
    run_backfill(store, "shop/gallery", "shop/gallery2", new="shop/new", budget=0.75)  # a mixed base stays two spaces
    assert [space.name for space in store.features("shop/gallery2").parts] == ["lifted", "new"]
    declared = Space.named("other", 12).model_copy(update={"compatible_with": (MAPPED.digest, NEW.digest)})
    half = declared.model_copy(update={"compatible_with": (MAPPED.digest,)})
    assert comparable(declared, gallery)
    assert not comparable(half, gallery)
    stray = Space.mixed([Space.named("a", 12), Space.named("b", 12)])
    assert not comparable(stray, stray)
    assert comparable(gallery, gallery)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"gallery": "shop/unrelated"}, SpaceMismatchError, "nothing declares comparable"),
        ({"gallery": "shop/old"}, AlignmentError, "width 6 and shop/new@1 of width 12"),
        ({"target": "shop/unrelated"}, AlreadyExistsError, "no backfill or upgrade made it"),
        ({"target": "shop/gallery@1"}, UsageError, "names a version"),
        ({"target": "zoo/gallery"}, UsageError, "cannot hold rows of dataset shop"),
        ({"budget": 1.5}, UsageError, "no share"),
        ({"new": None}, UsageError, "one place"),
        ({"images": "photos"}, UsageError, "one place"),
    ],
)
def test_what_cannot_be_backfilled_says_so(store, arguments, error, message):
    asked = {"gallery": "shop/mapped", "target": "shop/gallery", "new": "shop/new", "budget": 0.5, **arguments}
    with pytest.raises(error, match=message) as caught:
        run_backfill(store, asked.pop("gallery"), asked.pop("target"), **asked)
    assert caught.value.hint
    assert not store.has_features("shop/gallery")


def test_a_new_set_without_any_of_the_rows_is_refused(store, features):
    add_set(store, "shop", "none", features["new"], space=NEW, failed=range(N))
    with pytest.raises(IncompleteError, match="none of the 200 rows"):
        run_backfill(store, "shop/mapped", "shop/gallery", new="shop/none", budget=0.5)


def test_a_crash_at_any_write_is_finished_by_the_same_call(root, tmp_path):
    def job(store):
        return run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0.5)

    counted = FaultyFiles(LocalFiles(shutil.copytree(root, tmp_path / "counted")))
    job(Store(counted))
    expected = Store(counted).features("shop/gallery")
    writes = sum(operation.name == "put_new" for operation in counted.log)
    assert writes > 10
    for at in range(1, writes + 1, 4):
        place = LocalFiles(shutil.copytree(root, tmp_path / f"crash{at}"))
        with pytest.raises(FeatstoreError):
            job(Store(FaultyFiles(place, Fault("tear", at=at, operation="put_new"))))
        opened = Store.open(place.root)
        if opened.has_features("shop/gallery"):
            assert opened.features("shop/gallery").version == 1
        job(opened)
        made = opened.features("shop/gallery")
        assert made.version == 1
        assert np.array_equal(made.gather(np.arange(N)), expected.gather(np.arange(N)))
        assert np.array_equal(made.part_of_rows(), expected.part_of_rows())
        assert verify(opened, "shop/gallery", full=True).problems == []


def test_compaction_and_collection_keep_track_of_the_rows(store):
    run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0.5)
    before = store.features("shop/gallery")
    part = before.part_of_rows()
    store.remove_rows("shop", [f"{row}.jpg" for row in range(0, 40, 2)])
    assert sum(count for _, count in store.features("shop/gallery").rows_by_space()) == N - 20
    compact(store, "shop")
    after = store.features("shop/gallery")
    left = [row for row in range(N) if not (row < 40 and row % 2 == 0)]
    assert np.array_equal(after.gather(np.arange(len(left))), before.gather(left))
    assert np.array_equal(after.part_of_rows(), part[left])
    assert verify(store, full=True).problems == []
    collect_garbage(store, grace=timedelta(0))
    assert np.array_equal(store.features("shop/gallery").part_of_rows(), part[left])
    assert verify(store, full=True).problems == []


def test_damage_to_what_tells_rows_apart_is_found_and_mended(root, store, tmp_path):
    run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0.5)
    mixture = store.features("shop/gallery").record.mixture
    copy = shutil.copytree(root, tmp_path / "copy")
    path = root / f"features/shop/gallery/segments/{mixture.name}/part/c.0"
    path.chmod(0o600)
    path.write_bytes(bytes([1 - path.read_bytes()[0]]) + path.read_bytes()[1:])
    assert [problem.where for problem in verify(store, "shop/gallery").problems]
    with pytest.raises(FeatstoreError, match="checksum"):
        store.features("shop/gallery").part_of_rows()
    assert repair(store, "shop/gallery", copy=str(copy)).mended
    assert verify(store, "shop/gallery", full=True).problems == []


def test_doctor_looks_at_the_sets_that_a_mixed_gallery_comes_from(store):
    made = run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0.25)
    for model in (None, f"{MODELS}old"):
        with pytest.raises(UsageError, match="rows of several models") as caught:
            doctor(store, made.set, model)
        assert "featstore log shop/gallery" in caught.value.hint


def test_only_mixed_versions_need_a_newer_featstore(store):
    plain = store.features("shop/mapped").record
    assert plain.format == 1
    assert b"mixture" not in dump(plain)
    run_backfill(store, "shop/mapped", "shop/gallery", new="shop/new", budget=0.5)
    record = store.features("shop/gallery").record
    assert record.format == 2
    assert load(FeatureSetVersion, dump(record), where="here") == record


def test_images_are_encoded_once(tmp_path):
    make_images(tmp_path / "images", 40)
    store = Store.init(tmp_path / "store")
    extract(store, ExtractRequest(source=str(tmp_path / "images"), dataset="photos", models={"old": f"{MODELS}new"}))
    old = store.features("photos/old")
    space = load_encoder(f"{MODELS}new").space
    mapped = MAPPED.model_copy(update={"width": old.width, "compatible_with": (space.digest,)})
    add_set(store, "photos", "mapped", old.gather(np.arange(40)) + np.float32(0.1), space=mapped)
    broken = old.dataset.ids[5]
    (tmp_path / "images" / broken).write_bytes(b"no image")

    def to(budget):
        return run_backfill(
            store, "photos/mapped", "photos/gallery", budget=budget, order="row",
            images=str(tmp_path / "images"), model=f"{MODELS}new",
        )  # fmt: skip

    first, second = to(0.25), to(0.5)
    assert (first.wanted, first.encoded, first.backfilled) == (10, 9, 9)
    assert (second.wanted, second.encoded, second.backfilled) == (20, 10, 19)
    gallery = store.features("photos/gallery")
    rows = parts_of(gallery)[space.name]
    assert rows.tolist() == [row for row in range(20) if row != 5]
    assert np.allclose(gallery.gather(rows), old.gather(rows), atol=1e-5)
    kept = np.setdiff1d(np.arange(40), rows)
    assert np.array_equal(gallery.gather(kept), store.features("photos/mapped").gather(kept))
    assert gallery.input_digests()[rows].any(axis=1).all()


def test_the_rows_that_a_map_trusts_least_come_first(store):
    with pytest.raises(FeatstoreError, match="no uncertainty"):
        backfill_order(store, "shop/mapped", "uncertainty")
    doubt = np.random.default_rng(6).normal(size=(N, 1)).astype(np.float32)
    add_set(store, "shop", "mapped.uncertainty", doubt)
    order = [int(text.removesuffix(".jpg")) for text in backfill_order(store, "shop/mapped", "uncertainty")]
    assert np.all(np.diff(doubt[order, 0]) <= 0)
    assert backfill_order(store, "shop/mapped", "-uncertainty")[0] == f"{doubt.argmin()}.jpg"
    request = EvalRequest(old="shop/mapped", new="shop/new", backfill=("uncertainty",), backfill_steps=2, bootstrap=0)
    assert [curve.order for curve in evaluate(store, request).backfill] == ["uncertainty"]
