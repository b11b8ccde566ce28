"""The canary: inputs kept with a set, encoded again to find drift, and erased with the rows they belong to."""

import base64
import json
import shutil
from datetime import timedelta

import numpy as np
import pytest

from featstore.encoders import Encoder
from featstore.errors import CorruptStoreError, NotFoundError, SpaceMismatchError, UntrustedError, UsageError
from featstore.extract import ExtractRequest, doctor, extract
from featstore.spaces import Space
from featstore.store import NewRows, Store, collect_garbage, compact, repair, verify
from featstore.store.canary import read_canary
from featstore_cli.main import run
from tests.extract.conftest import make_images, one_colour

OLD = "python:tests.extract.factories:old"


def encode(store, images, **options):
    return extract(store, ExtractRequest(source=str(images), dataset="d", models={"old": OLD}, workers=1, **options))


def kept(store, reference="d/old"):
    features = store.features(reference)
    entries = read_canary(store.files, features)
    return dict(zip(features.dataset.ids.take([entry.row for entry in entries]), entries, strict=True))


def test_a_set_keeps_images_that_give_its_features(store, images):
    encode(store, images)
    entries = kept(store)
    assert len(entries) == 16
    assert all((images / id_).read_bytes() == entry.data for id_, entry in entries.items())
    found = doctor(store, "d/old", OLD)
    assert found.healthy
    assert found.inputs == 16
    assert found.least == pytest.approx(1, abs=1e-6)
    assert not found.identity + found.numerics


def test_other_weights_are_drift(store, images):
    encode(store, images, canary=4)
    found = doctor(store, "d/old", "python:tests.extract.factories:other_old")
    assert not found.healthy
    assert found.least < 0.99
    assert [field for field, _, _ in found.identity] == ["weights"]
    assert doctor(store, "d/old", "python:tests.extract.factories:other_old", tolerance=2).healthy
    wider = doctor(store, "d/old", "python:tests.extract.factories:new")
    assert (wider.healthy, wider.least) == (False, None)
    assert "width" in [field for field, _, _ in wider.identity]


@pytest.mark.parametrize(("scale", "same"), [(1.0, True), (1.5, False)])
def test_rows_are_added_with_other_numerics_only_if_the_features_agree(
    store, images, recorder, monkeypatch, scale, same
):
    encode(store, images)
    make_images(images, 4, start=60)
    plain = Encoder.encode
    stretch = np.linspace(1, scale, 8, dtype=np.float32)
    monkeypatch.setattr("PIL.__version__", "99.0")
    monkeypatch.setattr(Encoder, "encode", lambda self, batch: plain(self, batch) * stretch)
    request = ExtractRequest(source=str(images), dataset="d", models={"old": OLD}, workers=1)
    if same:
        extract(store, request, recorder)
        assert any("→ 99.0" in note and "1.000000" in note for note in recorder.notes)
        assert len(kept(store)) == 16  # enough of them already
    else:
        with pytest.raises(SpaceMismatchError, match=r"the least cosine of 16 kept inputs is 0\.9"):
            extract(store, request, recorder)


def test_removed_inputs_are_erased(store, images):
    encode(store, images)
    encode(store, images)  # a cached run adds nothing
    before = kept(store)
    gone = sorted(before)[:5]
    store.remove_rows("d", gone)
    assert set(kept(store)) == set(before) - set(gone)
    compact(store, "d")
    collect_garbage(store, grace=timedelta(0))
    after = kept(store)
    assert set(after) == set(before) - set(gone)
    assert all(after[id_].data == before[id_].data for id_ in after)
    contents = [store.files.get(info.key) for info in store.files.walk()]
    for id_, entry in before.items():
        assert any(base64.b64encode(entry.data) in content for content in contents) == (id_ in after)
    assert doctor(store, "d/old", OLD).inputs == 11
    assert not verify(store, full=True).problems


def test_a_damaged_canary_is_found_and_mended(store, images, tmp_path):
    encode(store, images)
    shutil.copytree(store.location, tmp_path / "copy")
    (key,) = [info.key for info in store.files.walk() if info.key.endswith("canary.json")]
    sound = store.files.get(key)
    store.files.put(key, sound.replace(b"base", b"bass").replace(b"A", b"B", 1))
    with pytest.raises(CorruptStoreError):
        doctor(store, "d/old", OLD)
    assert [problem.where for problem in verify(store).problems] == [store.files.where(key)]
    assert repair(store, copy=str(tmp_path / "copy")).mended
    assert store.files.get(key) == sound
    store.files.put(key, sound[:-40])
    report = repair(store)
    assert report.mended
    assert "lost" in report.restored[0][1]
    with pytest.raises(NotFoundError, match="keeps no inputs"):
        doctor(store, "d/old", OLD)


def test_only_the_bytes_that_were_encoded_are_kept(store, images):
    encode(store, images, canary=0)
    assert not kept(store)
    for path in sorted(images.rglob("*.png")):
        one_colour(path, 7)
    encode(store, images, canary=256)
    assert {id_.rpartition(".")[2] for id_ in kept(store)} == {"jpg"}
    assert len(kept(store)) == 30


def test_what_has_no_canary_says_so(store, images):
    encode(store, images, views=1)
    with pytest.raises(UsageError, match="augmented views"):
        doctor(store, "d/old.v1")
    with pytest.raises(UntrustedError, match="is code"):
        doctor(store, "d/old")
    dataset = store.create_dataset("e", NewRows(ids=["a"]))
    job = store.plan_features(dataset, "old", Space.named("s", 8), np.dtype("f4"), shard_rows=8)
    job.publish(0, np.ones((1, 8), np.float32))
    job.commit({})
    with pytest.raises(NotFoundError, match="does not record which model"):
        doctor(store, "e/old")
    with pytest.raises(NotFoundError, match="keeps no inputs"):
        doctor(store, "e/old", OLD)


def test_on_the_command_line(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    encode(Store.init(tmp_path / "store"), images)
    assert run(["doctor", "d/old", "--model", OLD]) == 0
    assert "16 inputs encoded again, least cosine 1.0" in capsys.readouterr().out
    assert run(["doctor", "d/old"]) == 1
    assert f"featstore doctor d/old --model {OLD}" in " ".join(capsys.readouterr().err.split())
    assert run(["doctor", "d/old", "--model", "python:tests.extract.factories:other_old", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["healthy"] is False
