"""Extraction through its public entry: one decode for all models, resume, growth, failures."""

import importlib
import os

import numpy as np
import pytest
from blake3 import blake3

from featstore.encoders import load_encoder
from featstore.errors import AlignmentError, BadInputError, NonFiniteError, SpaceMismatchError, UsageError
from featstore.extract import ExtractRequest, extract, inputs, pipeline
from featstore.extract.ledger import Ledger
from featstore.extract.pipeline import Tally
from featstore.sources import ImageFolder, decode_image
from featstore.store import NewRows, common_rows
from tests.extract import factories
from tests.extract.conftest import make_images, one_by_one, one_colour

OLD = "python:tests.extract.factories:old"
NEW = "python:tests.extract.factories:new"


def run(store, source, progress=None, **options):
    request = ExtractRequest(**{"source": str(source), "dataset": "d", "models": {"old": OLD}, "workers": 1} | options)
    return extract(store, request, progress) if progress else extract(store, request)


@pytest.fixture
def decodes(monkeypatch):
    seen = []

    def counted(data):
        seen.append(blake3(data).hexdigest())
        return decode_image(data)

    monkeypatch.setattr(inputs, "decode_image", counted)
    return seen


def test_features_are_those_of_each_image_alone_and_aligned_by_id(store, images):
    report = run(store, images, models={"old": OLD, "new": NEW}, batch=7)
    assert (report.images, report.encoded, report.cached, report.failed) == (60, 60, 0, 0)
    dataset = store.dataset("d")
    assert list(dataset.ids) == sorted(p.relative_to(images).as_posix() for p in images.rglob("*.*"))
    labels = dataset.labels
    assert [labels.names[code] for code in labels.codes] == [id_.split("/")[0] for id_ in dataset.ids]
    for name, encoder in (("old", factories.old()), ("new", factories.new())):
        features = store.features(f"d/{name}")
        assert report.sets[name].ref == features.ref
        assert features.space.digest == encoder.space.digest
        expected = one_by_one(images, encoder, list(dataset.ids))
        np.testing.assert_allclose(features.gather(np.arange(60)), expected, atol=1e-6)
    digests = store.features("d/new").input_digests()
    assert [bytes(d).hex() for d in digests] == [blake3((images / i).read_bytes()).hexdigest(16) for i in dataset.ids]


def test_two_encoders_in_one_pass_decode_each_image_once(store, images, decodes):
    run(store, images, models={"old": OLD, "new": NEW})
    probed = len(set(decodes[:32]))
    assert probed == 32
    assert len(decodes) == 32 + 60
    assert len(set(decodes[32:])) == 60


def test_a_small_job_starts_no_processes_unless_asked(store, images, monkeypatch):
    monkeypatch.setattr(importlib.import_module("featstore.extract.extract"), "run_workers", None)
    assert run(store, images, workers=None).encoded == 60


def test_the_same_again_is_cached_and_reads_no_image(store, images, decodes):
    first = run(store, images)
    decodes.clear()
    again = run(store, images)
    assert decodes == []
    assert (again.encoded, again.cached, again.images_per_second) == (0, 60, 0)
    assert again.sets["old"].ref == first.sets["old"].ref == "d/old@1"


def test_a_second_model_joins_later_without_touching_the_first(store, images):
    run(store, images)
    report = run(store, images, models={"old": OLD, "new": NEW})
    assert (report.sets["old"].encoded, report.sets["new"].encoded) == (0, 60)
    assert store.features("d/old").version == 1
    assert len(common_rows([store.features("d/old"), store.features("d/new")])) == 60


def test_new_images_are_appended_and_only_they_are_encoded(store, images, decodes):
    run(store, images)
    before = store.features("d/old").gather(np.arange(60))
    make_images(images, 10, start=60)
    decodes.clear()
    report = run(store, images)
    assert (report.images, report.encoded, report.cached) == (70, 10, 60)
    assert len(set(decodes)) == 10
    features = store.features("d/old")
    np.testing.assert_array_equal(features.gather(np.arange(60)), before)
    expected = one_by_one(images, factories.old(), store.dataset("d").ids.take(range(60, 70)))
    np.testing.assert_allclose(features.gather(np.arange(60, 70)), expected, atol=1e-6)


def test_changed_and_vanished_images_are_reported(store, images, recorder):
    run(store, images)
    ids = list(store.dataset("d").ids)
    (images / ids[0]).unlink()
    os.utime(images / ids[1], ns=(1, 1))
    (images / ids[2]).write_bytes(b"other")
    report = run(store, images, recorder)
    assert (report.changed, report.vanished, report.images) == (2, 1, 60)
    assert any("2 images changed" in note for note in recorder.notes)
    assert any("1 images of the dataset" in note for note in recorder.notes)


def test_bad_files_become_failed_rows_and_shift_nothing(store, images):
    good = list(ImageFolder.open(images).rows(lambda _: None))
    picture = (images / "c1/0001.png").read_bytes()
    bad = {
        "c0/empty.png": b"",
        "c1/page.jpg": b"<html>404</html>",
        "c1/cut.png": picture[: len(picture) // 2],
        "a/first.gif": b"GIF89a",
    }
    for name, data in bad.items():
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(data)
    report = run(store, images, models={"old": OLD, "new": NEW}, batch=5, max_failures=0.5)
    assert (report.images, report.failed) == (64, 4)
    assert {name: s.failed for name, s in report.sets.items()} == {"old": 4, "new": 4}
    features = store.features("d/new")
    assert {f.id: f.stage for f in features.failures()} == dict.fromkeys(bad, "decode")
    rows = features.valid_rows()
    assert store.dataset("d").ids.take(rows) == [item.id for item in good]
    expected = one_by_one(images, factories.new(), store.dataset("d").ids.take(rows))
    np.testing.assert_allclose(features.gather(rows), expected, atol=1e-6)
    again = run(store, images, models={"old": OLD, "new": NEW})
    assert (again.failed, again.cached) == (4, 64)


def test_an_image_that_the_network_cannot_take_costs_no_other_its_feature(store, images):
    one_colour(images / "c0/black.png", 0)
    one_colour(images / "c0/white.png", 255)
    report = run(
        store, images, models={"odd": "python:tests.extract.factories:odd", "old": OLD}, batch=16, max_failures=0.2
    )
    assert report.failed == 2
    failures = {f.id: f for f in store.features("d/odd").failures()}
    assert "NaN" in failures["c0/black.png"].error
    assert "too bright" in failures["c0/white.png"].error
    assert {f.stage for f in failures.values()} == {"encode"}
    assert report.sets["old"].failed == 0


def test_features_of_nothing_but_zeros_fail_unless_they_are_kept(store, images):
    one_colour(images / "c0/grey.png", 127)
    zero = {"zero": "python:tests.extract.factories:zero_for_grey"}
    report = run(store, images, models=zero)
    assert report.sets["zero"].failed == 1
    [failure] = store.features("d/zero").failures()
    assert (failure.id, failure.stage) == ("c0/grey.png", "encode")
    assert "--zero-rows keep" in failure.error
    kept = run(store, images, dataset="e", models=zero, zero_rows="keep")
    assert (kept.failed, kept.sets["zero"].copied) == (0, {"d/zero": 60})
    assert not store.features("e/zero").take_ids(["c0/grey.png"]).any()
    # what was kept is not copied to where it would fail
    assert run(store, images, dataset="f", models=zero).sets["zero"].failed == 1


def test_too_many_failures_stop_the_run_and_the_same_command_goes_on(store, images):
    for n in range(20):
        (images / f"c2/9{n:03}.jpg").write_bytes(b"<html>")
    with pytest.raises(BadInputError, match=r"images tried failed, more than 5%.*c2/9") as caught:
        run(store, images, batch=4)
    assert "--max-failures" in caught.value.hint
    assert not store.has_features("d/old")
    kept = list((store.files.root / "features").rglob("shards/*.json"))
    assert kept
    times = {path: path.stat().st_mtime_ns for path in kept}
    report = run(store, images, max_failures=1)
    assert (report.images, report.failed) == (80, 20)
    assert report.encoded < 80
    assert {path: path.stat().st_mtime_ns for path in kept} == times


def test_the_budget_counts_over_units_and_not_twice_when_one_is_done_again(recorder):
    ledger = Ledger(3, 0.1, recorder)
    ledger.update(0, Tally(10, 1, "a"))
    ledger.update(1, Tally(6, 1, "b"))
    ledger.update(0, Tally(5, 1, "a"))  # a fresh worker begins again
    ledger.update(0, Tally(10, 1, "a"))
    assert (ledger.tried, ledger.failed, recorder.advanced) == (16, 2, 16)  # too few to judge
    ledger.update(2, Tally(4, 0))  # 2 of 20 are the budget exactly
    with pytest.raises(BadInputError, match="3 of 22 images tried failed, more than 10%; for example a; b; c"):
        ledger.update(1, Tally(8, 2, "c"))


def test_a_folder_without_a_usable_image_writes_nothing(store, tmp_path):
    (tmp_path / "bad").mkdir()
    for n in range(3):
        (tmp_path / f"bad/{n}.jpg").write_bytes(b"no")
    with pytest.raises(BadInputError, match="none of 3 images"):
        run(store, tmp_path / "bad")
    assert store.datasets() == []


def test_one_new_bad_image_is_a_failed_row_not_an_error(store, images):
    run(store, images)
    (images / "c0/zzz.jpg").write_bytes(b"no")
    report = run(store, images)
    assert (report.images, report.failed, report.encoded) == (61, 1, 1)


def test_a_flat_folder_has_no_labels_and_one_image_is_enough(store, tmp_path):
    one_colour(tmp_path / "flat/x.png", 100)
    report = run(store, tmp_path / "flat")
    assert (report.images, report.failed) == (1, 0)
    assert store.dataset("d").labels.codes.tolist() == [-1]


def test_another_encoder_under_the_same_name_is_refused_before_any_image_is_read(store, images, decodes):
    run(store, images)
    make_images(images, 1, start=90)
    decodes.clear()
    with pytest.raises(SpaceMismatchError, match="weights"):
        run(store, images, models={"old": "python:tests.extract.factories:other_old"})
    assert decodes == []
    assert store.dataset("d").rows == 60


def test_another_folder_does_not_pass_for_the_same_dataset(store, images, tmp_path):
    run(store, images)
    make_images(tmp_path / "others", 60, start=1)
    with pytest.raises(AlignmentError, match="is not the same"):
        run(store, tmp_path / "others")
    images.rename(tmp_path / "moved")
    assert run(store, tmp_path / "moved").cached == 60


def test_a_dataset_that_was_not_made_from_the_folder_is_left_alone(store, images):
    store.create_dataset("d", NewRows(ids=["c0/0000.jpg", "elsewhere"]))
    with pytest.raises(AlignmentError, match="not made from a folder"):
        run(store, images)


def test_dtypes(store, images):
    run(store, images, models={"half": "python:tests.extract.factories:half", "old": OLD})
    assert store.features("d/half").dtype == np.float16
    assert store.features("d/old").dtype == np.float32
    run(store, images, dataset="e", dtype="float16")
    exact = store.features("d/old").gather(np.arange(60))
    np.testing.assert_array_equal(store.features("e/old").gather(np.arange(60)), exact.astype(np.float16))


def test_a_value_that_the_dtype_cannot_hold_is_refused_by_name(store, images, monkeypatch):
    encoder = factories.old()
    monkeypatch.setattr(encoder, "encode", lambda arrays: np.full((len(arrays), 8), 1e6, dtype=np.float32))
    monkeypatch.setattr(importlib.import_module("featstore.extract.outputs"), "load_encoder", lambda _: encoder)
    with pytest.raises(NonFiniteError, match="float16"):
        run(store, images, dtype="float16")


def test_a_model_that_differs_between_processes_is_refused(store, images):
    with pytest.raises(SpaceMismatchError, match="worker process"):
        run(store, images, models={"x": "python:tests.extract.factories:unseeded"}, workers=2)


def test_names_are_checked_before_anything_else(store):
    with pytest.raises(UsageError):
        run(store, "nowhere", models={"../x": OLD})


def test_an_interrupted_plan_is_finished_before_new_images_are_added(store, images, monkeypatch):
    real = pipeline.run_unit
    calls = []

    def third_raises(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr("featstore.extract.workers.run_unit", third_raises)
    with pytest.raises(KeyboardInterrupt):
        run(store, images)
    kept = {p: p.stat().st_mtime_ns for p in (store.files.root / "features").rglob("shards/*.json")}
    assert len(kept) == 2
    make_images(images, 5, start=200)
    monkeypatch.undo()
    report = run(store, images)
    assert (report.images, report.failed) == (65, 0)
    assert report.encoded < 65 - 8
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    expected = one_by_one(images, load_encoder(OLD), list(store.dataset("d").ids))
    np.testing.assert_allclose(store.features("d/old").gather(np.arange(65)), expected, atol=1e-6)
