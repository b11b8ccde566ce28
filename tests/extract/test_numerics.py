"""Faster ways to compute encoders: near the plain one, recorded in the space, never another space."""

import numpy as np
import pytest

from featstore.encoders import Numerics, has_compiler
from featstore.extract import ExtractRequest, extract, tuning
from featstore_cli.main import run
from tests.extract import factories

NEW = "python:tests.extract.factories:new"


def extracted(store, source, progress=None, **options):
    request = ExtractRequest(**{"source": str(source), "dataset": "d", "models": {"new": NEW}, "workers": 1} | options)
    return extract(store, request, progress) if progress else extract(store, request)


def cosines(one, other):
    left, right = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (one.astype(float), other.astype(float)))
    return (left * right).sum(axis=1)


@pytest.mark.parametrize(
    "fields", [{"autocast": "bf16"}, {"channels_last": True}, {"autocast": "bf16", "channels_last": True}]
)
def test_features_stay_near_and_the_set_says_how_near(store, images, fields, recorder):
    extracted(store, images, dataset="plain")
    extracted(store, images, numerics=Numerics(**fields), progress=recorder)
    plain, other = store.features("plain/new"), store.features("d/new")
    assert other.space.digest == plain.space.digest
    assert other.dtype == plain.dtype
    rows = np.arange(60)
    assert cosines(plain.gather(rows), other.gather(rows)).min() > 0.999
    numerics = other.space.numerics
    assert numerics["autocast"] == fields.get("autocast", "off")
    assert numerics["cosine to float32"]["images"] == 32
    assert 0.999 < numerics["cosine to float32"]["smallest"] <= numerics["cosine to float32"]["mean"]
    assert "smallest cosine" in "".join(recorder.notes)


def test_worker_processes_compute_as_the_parent_measured(store, images):
    extracted(store, images, numerics=Numerics(autocast="bf16"), workers=2)
    extracted(store, images, dataset="one", numerics=Numerics(autocast="bf16"))
    rows = np.arange(60)
    np.testing.assert_allclose(
        store.features("d/new").gather(rows), store.features("one/new").gather(rows), atol=1e-2
    )  # fmt: skip


@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
def test_compiled_networks_give_the_same_for_any_number_of_images():
    encoder = factories.new()
    compiled = encoder.tuned(Numerics(compile=True, channels_last=True), 8)
    some = np.random.default_rng(0).normal(size=(19, 3, 20, 20)).astype(np.float32)
    for count in (8, 1, 3, 19):
        np.testing.assert_allclose(compiled.encode(some[:count]), encoder.encode(some[:count]), atol=1e-5)
    assert compiled.space.digest == encoder.space.digest
    assert "compiled" in compiled.space.numerics["engine"]


@pytest.mark.parametrize(("cosine", "speed", "chosen"), [(1.0, 2.0, "bf16"), (1.0, 0.5, "off"), (0.5, 2.0, "off")])
def test_fast_is_taken_only_where_it_is_near_and_faster(store, images, monkeypatch, recorder, cosine, speed, chosen):
    monkeypatch.setattr(tuning, "has_compiler", lambda: False)
    monkeypatch.setattr(tuning, "_cosines", lambda one, _: np.full(len(one), cosine))
    seconds = iter([speed, 1.0])
    monkeypatch.setattr(tuning, "_timed", lambda encoder, batch: (encoder.encode(batch), next(seconds)))
    extracted(store, images, fast=True, progress=recorder)
    assert store.features("d/new").space.numerics.get("autocast", "off") == chosen
    assert len(recorder.notes) == 1


def test_cosines_by_their_definition():
    one = np.array([[1.0, 0], [0, 0], [0, 0], [3, 4]])
    other = np.array([[1.0, 1], [0, 0], [1, 0], [3, 4]])
    np.testing.assert_allclose(tuning._cosines(one, other), [2**-0.5, 1, 0, 1])


def test_the_command_line_shows_it(store, images, capsys, monkeypatch):
    monkeypatch.setenv("FEATSTORE_STORE", str(images.parent / "store"))
    arguments = ["--dataset", "d", "--model", f"new={NEW}", "--autocast", "bf16", "--channels-last", "--workers", "1"]
    assert run(["extract", str(images), *arguments]) == 0
    assert "cosine to float32" in capsys.readouterr().err
    assert store.features("d/new").space.numerics["channels last"] is True
    assert run(["show", "d/new"]) == 0
    assert "cosine" in capsys.readouterr().out
