"""Work on Ray: two workers, one of them killed midway, give what one process gives."""

from dataclasses import fields

import numpy as np
import pytest

from featstore.errors import FeatstoreError, NotFoundError
from featstore.evaluate.blocking import Blocking
from featstore.evaluate.ranks import ranked_blocks
from featstore.evaluate.relevance import ByLabel
from featstore.evaluate.vectors import ArrayVectors
from featstore.extract import ExtractRequest, extract
from featstore.maps import LinearConfig, apply_map, build_map, save_map
from featstore.ray_pool import ray_map
from featstore.store import Store
from tests.extract.conftest import Recorder, make_images
from tests.extract.test_ranks import assert_same
from tests.ray_tasks import DeadlyFiles, DeadlyVectors, prepare, tell_thrice, touch

MODELS = {"old": "python:tests.extract.factories:old", "new": "python:tests.extract.factories:new"}


@pytest.fixture(scope="module")
def _ray():
    """A cluster of two workers for all tests of this file."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'featstore[ray]'")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _cluster(_ray):
    """Every test needs it."""


@pytest.fixture
def flag(tmp_path):
    return tmp_path / "one worker died"


@pytest.fixture
def deadly(tmp_path, flag):
    """A store in which a worker dies."""
    Store.init(tmp_path / "store")
    return Store(DeadlyFiles(tmp_path / "store", flag))


@pytest.fixture
def alone(tmp_path):
    return Store.init(tmp_path / "alone")


class Steps(Recorder):
    """Remembers by how much it advanced."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def advance(self, n):
        super().advance(n)
        self.steps.append(n)


def test_extraction(deadly, alone, tmp_path, flag, capfd):
    recorder = Steps()
    make_images(tmp_path / "images", 60)
    request = ExtractRequest(source=str(tmp_path / "images"), dataset="d", models=MODELS, workers=2, engine="ray")
    report = extract(deadly, request.model_copy(update={"batch": 4}), recorder)
    assert flag.exists()
    assert "died" in capfd.readouterr().err  # and a command's result stands alone on stdout
    assert len(recorder.steps) == 15  # it moves with every batch, not with every shard
    assert (report.encoded, report.left, recorder.advanced) == (60, 0, 60)
    assert len(report.stages) == 5
    extract(alone, request.model_copy(update={"engine": "local", "workers": 1}))
    assert_same(Store.open(deadly.location), alone)
    assert extract(deadly, request).cached == 60


def test_apply(deadly, alone, tmp_path, flag):
    make_images(tmp_path / "images", 60)
    request = ExtractRequest(source=str(tmp_path / "images"), dataset="d", models={"old": MODELS["old"]}, workers=1)
    for store in (deadly, alone):
        extract(store, request)
    config = LinearConfig()
    space = alone.features("d/old").space
    save_map(
        tmp_path / "run",
        build_map(config, 8, 4),
        config=config,
        input_space=space,
        name="m",
        compatible_with=(),
        training={},
    )
    report = apply_map(deadly, tmp_path / "run", "d/old", "d/mapped", engine="ray", workers=2)
    assert flag.exists()
    assert (report.rows, report.left) == (60, 0)
    apply_map(alone, tmp_path / "run", "d/old", "d/mapped")
    assert_same(Store.open(deadly.location), alone)


def test_evaluation(flag):
    generator = np.random.default_rng(0)
    query, gallery = (generator.normal(size=(rows, 6)).astype(np.float32) for rows in (40, 500))
    relevance = ByLabel(generator.integers(0, 9, 40), generator.integers(0, 9, 500))

    def counted(rows, blocking):
        blocks = ranked_blocks(ArrayVectors(query, "queries"), rows, relevance, blocking=blocking)
        return dict(blocks)

    small = {"state_bytes": 40_000, "keep_bytes": 0}
    expected = counted(ArrayVectors(gallery, "rows"), Blocking(**small))
    found = counted(DeadlyVectors(gallery, flag), Blocking(**small, workers=2, engine="ray"))
    assert flag.exists()
    assert list(found) == list(expected)
    assert len(found) > 1
    for first, counts in expected.items():
        for part in fields(counts):
            np.testing.assert_array_equal(getattr(found[first], part.name), getattr(counts, part.name))


def test_errors_of_workers_arrive():
    with pytest.raises(NotFoundError, match="no thing") as raised:
        list(ray_map(prepare, "error", ["thing"], workers=1))
    assert raised.value.hint == "look elsewhere"
    with pytest.raises(FeatstoreError, match="ZeroDivisionError"):
        list(ray_map(prepare, "bug", ["thing"], workers=1))
    with pytest.raises(FeatstoreError, match="two Ray workers died") as raised:
        list(ray_map(prepare, "death", ["thing"], workers=1))
    assert "--engine local" in raised.value.hint


def test_what_tasks_tell_is_heard_before_their_result():
    heard = {}
    told = tell_thrice
    for number, result in ray_map(
        told, None, "ab", workers=2, heard=lambda k, word: heard.setdefault(k, []).append(word)
    ):
        assert heard[number] == [(result, part) for part in range(3)]
    assert set(heard) == {0, 1}


def test_a_stop_finishes_what_is_under_way(tmp_path):
    done = []
    for number, _ in ray_map(touch, str(tmp_path), range(10), workers=2, stopped=lambda: len(done) >= 2):
        done.append(number)
    assert 2 <= len(done) <= 4
    assert len(list(tmp_path.iterdir())) == len(done)
