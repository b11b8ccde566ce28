"""Cells are measured once: the same inputs give the kept values, other inputs and damage measure again."""

import numpy as np
import pytest

from featstore.evaluate import EvalRequest, evaluate, measure
from featstore.spaces import Space
from featstore.store import cache_files, clear_cache
from tests.store_factory import add_set, labelled_store

N = 60


def fill(store, name, features):
    add_set(store, "cars", name, features.astype("f4"), space=Space.named("old", 4))


@pytest.fixture
def counted(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path / "cache"))
    calls = []

    def rank(*arguments, real=measure.evaluate_vectors, **options):
        calls.append(options["task"])
        return real(*arguments, **options)

    monkeypatch.setattr(measure, "evaluate_vectors", rank)
    return calls


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    store = labelled_store(
        tmp_path / "store", "cars", rng.integers(0, 6, N), columns={"odd": [row % 2 for row in range(N)]}
    )
    fill(store, "old", rng.integers(-2, 3, (N, 4)) + 0.5)
    fill(store, "new", rng.normal(size=(N, 4)))
    return store


def test_the_same_cells_are_not_measured_again(store, counted):
    request = EvalRequest(old="cars/old", new="cars/new", bootstrap=20)
    first = evaluate(store, request)
    assert counted == ["old/old", "new/old", "new/new"]
    assert evaluate(store, request).model_dump() == first.model_dump()
    assert len(counted) == 3
    evaluate(store, EvalRequest(query="cars/new", gallery="cars/old", bootstrap=0))  # the cell new/old by another role
    assert len(counted) == 3
    assert evaluate(store, request.model_copy(update={"cache": False})).model_dump() == first.model_dump()
    assert len(counted) == 6


def test_whatever_a_cell_depends_on_measures_it_again(store, counted):
    base = EvalRequest(query="cars/new", gallery="cars/new", bootstrap=0)
    changes = [{}, {"where": ("odd=1",)}, {"gallery_where": ("odd=0",)}, {"metrics": ("mrr",)}, {"score": "euclidean"}]
    for number, change in enumerate(changes, 1):
        for _ in range(2):
            evaluate(store, base.model_copy(update=change))
        assert len(counted) == number, change
    for same in ({"max_memory": 2**30}, {"bootstrap": 5}, {"seed": 3}):
        evaluate(store, base.model_copy(update=same))
    assert len(counted) == len(changes)


def test_a_damaged_cell_is_measured_again_and_clear_forgets(store, counted):
    request = EvalRequest(query="cars/new", gallery="cars/new", bootstrap=0)
    first = evaluate(store, request)
    cache = cache_files()
    [info] = cache.walk("cells")
    data = bytearray(cache.get(info.key))
    for place in (0, 40, len(data) // 2, len(data) - 1):
        broken = bytearray(data)
        broken[place] ^= 1
        cache.put(info.key, bytes(broken))
        assert evaluate(store, request).model_dump() == first.model_dump()
    assert len(counted) == 5
    assert clear_cache() > 0
    evaluate(store, request)
    assert len(counted) == 6
