"""Independent ranks: the same rows and features as one process, whoever comes late or dies."""

import subprocess
import sys

import numpy as np
import pytest

from featstore.extract import ExtractRequest, extract, plan_extraction
from featstore.extract.pipeline import run_unit
from featstore.ranks import ALONE, Rank
from featstore.store import Store, verify
from featstore_cli.main import run
from tests.extract.conftest import make_images

MODELS = {"old": "python:tests.extract.factories:old", "new": "python:tests.extract.factories:new"}


def encode(store, images, rank=ALONE, models=MODELS):
    return extract(store, ExtractRequest(source=str(images), dataset="d", models=models, workers=1, rank=rank))


def stored(store):
    """Ids and all features of a store, by the name of the set."""
    dataset = store.dataset("d")
    sets = {name: store.features(f"d/{name}") for name in store.feature_sets("d")}
    return dataset.ids.take(range(dataset.rows)), {name: made.gather(range(made.rows)) for name, made in sets.items()}


def assert_same(store, other):
    ids, features = stored(store)
    other_ids, other_features = stored(other)
    assert ids == other_ids
    assert features.keys() == other_features.keys()
    for name, values in features.items():
        np.testing.assert_allclose(values, other_features[name], rtol=1e-4, atol=1e-6)
    assert not verify(store, full=True).problems


@pytest.fixture
def alone(tmp_path, images):
    """What one process gives."""
    store = Store.init(tmp_path / "alone")
    encode(store, images)
    return store


def test_two_ranks_of_which_one_is_stopped_and_resumed_late(store, images, alone, monkeypatch):
    units = []

    def stop_after_one(unit, *rest):
        if units:
            raise KeyboardInterrupt
        units.append(unit)
        run_unit(unit, *rest)

    monkeypatch.setattr("featstore.extract.workers.run_unit", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        encode(store, images, Rank(1, 2))
    monkeypatch.undo()
    first = encode(store, images, Rank(0, 2))
    assert not store.has_features("d/old")
    assert 0 < first.encoded < 60
    assert first.left == 60 - first.encoded - units[0].rows
    assert first.cached == units[0].rows
    assert {made.left for made in first.sets.values()} == {first.left}
    again = encode(store, images, Rank(0, 2))
    assert (again.encoded, again.left) == (0, first.left)
    plan = plan_extraction(store, ExtractRequest(source=str(images), dataset="d", models=MODELS, rank=Rank(0, 2)))
    assert (plan.missing, plan.ranks) == (first.left, 2)
    late = encode(store, images, Rank(1, 2))
    assert (late.encoded, late.left, late.cached) == (first.left, 0, 60 - first.left)
    assert_same(store, alone)
    assert encode(store, images, Rank(0, 2)).cached == 60


def test_a_rank_that_is_lost_is_made_up_for_by_one_process(store, images, alone):
    encode(store, images, Rank(2, 3))
    report = encode(store, images)
    assert 0 < report.encoded < 60
    assert_same(store, alone)


def test_new_images_come_after_what_other_ranks_owe(store, images, recorder):
    first = encode(store, images, Rank(0, 2))
    make_images(images, 8, start=60)
    request = ExtractRequest(source=str(images), dataset="d", models=MODELS, workers=1, rank=Rank(0, 2))
    assert extract(store, request, recorder).images == 60
    assert any("8 new images wait for the other ranks" in note for note in recorder.notes)
    late = encode(store, images, Rank(1, 2))
    assert (late.images, late.cached) == (68, first.encoded)
    assert encode(store, images, Rank(0, 2)).left == 0
    assert stored(store)[1]["old"].shape == (68, 8)


def test_ranks_of_one_machine_at_the_same_time(store, images, tmp_path, monkeypatch):
    """As torchrun starts them, one of them killed amid its work."""
    model = "old=python:tests.extract.factories:slow"
    command = ["extract", str(images), "--dataset", "d", "--model", model, "--workers", "1", "--store", store.location]
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    code = "import sys; from featstore_cli.main import run; sys.exit(run(sys.argv[1:]))"
    other = subprocess.Popen([sys.executable, "-c", code, *command])
    monkeypatch.setenv("RANK", "0")
    assert run(command) == 0
    other.kill()
    other.wait()
    monkeypatch.setenv("RANK", "1")
    assert run(command) == 0
    alone = Store.init(tmp_path / "alone")
    encode(alone, images, models={"old": "python:tests.extract.factories:slow"})
    assert_same(store, alone)
