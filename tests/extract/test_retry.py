"""Failed images once more."""

import json

import numpy as np
import pytest

from featstore.errors import SpaceMismatchError
from featstore.extract import EncodeAgain, ExtractRequest, extract
from featstore.store import retry_failed
from featstore_cli.main import run
from tests.extract.conftest import make_images

OLD = "python:tests.extract.factories:old"
OTHER = "python:tests.extract.factories:other_old"


@pytest.fixture
def failed(store, images):
    """A set of 60 images in several shards, four of which fail; the good images by the names of the broken ones."""
    good = {}
    for name in ("c0/0000.jpg", "c1/0019.png", "c2/0038.jpg", "c2/0059.png"):
        good[name] = (images / name).read_bytes()
        (images / name).write_bytes(good[name][:40])
    extract(store, ExtractRequest(source=str(images), dataset="d", models={"old": OLD}, workers=1, max_failures=0.2))
    return good


def test_what_was_put_right_gets_its_feature_and_nothing_else_changes(store, images, failed, tmp_path):
    before = store.features("d/old")
    rows, old = before.valid_rows(), before.gather(before.valid_rows())
    for name in list(failed)[:3]:
        (images / name).write_bytes(failed[name])
    source = EncodeAgain(str(images), {"old": OLD})
    report = retry_failed(store, "d/old", source)
    assert (report.set, report.tried, report.mended, report.failed) == ("d/old@2", 4, 3, 1)
    after = store.features("d/old")
    np.testing.assert_array_equal(after.gather(rows), old)
    assert len(after.valid_rows()) == 59
    assert [failure.id for failure in after.failures()] == ["c2/0059.png"]
    assert after.failures()[0].stage == "decode"
    assert store.features("d/old@1").failures() != after.failures()
    assert after.record.damaged == ()
    clean = tmp_path / "clean"
    make_images(clean, 60)
    extract(store, ExtractRequest(source=str(clean), dataset="clean", models={"old": OLD}, workers=1))
    wanted = store.features("clean/old")
    np.testing.assert_allclose(
        after.gather(after.valid_rows()), wanted.gather(after.valid_rows()), atol=1e-6
    )  # fmt: skip
    np.testing.assert_array_equal(
        after.input_digests()[after.valid_rows()], wanted.input_digests()[after.valid_rows()]
    )  # fmt: skip
    assert retry_failed(store, "d/old", source).set == "d/old@2"
    from featstore.store import verify

    assert verify(store, full=True).problems == []


def test_another_encoder_is_refused(store, images, failed):
    assert failed
    with pytest.raises(SpaceMismatchError):
        retry_failed(store, "d/old", EncodeAgain(str(images), {"old": OTHER}))


def test_the_command(store, images, failed, monkeypatch, capsys):
    assert store
    monkeypatch.setenv("FEATSTORE_STORE", str(images.parent / "store"))
    arguments = ["retry-failed", "d/old", "--images", str(images), "--model", OLD]
    assert run(arguments) == 3
    assert "0 of 4 failed rows" in capsys.readouterr().out
    for name, data in failed.items():
        (images / name).write_bytes(data)
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"set": "d/old@2", "tried": 4, "mended": 4, "failed": 0}
    assert run(arguments) == 0
    assert "no row has failed" in capsys.readouterr().out
