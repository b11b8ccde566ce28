"""Splits by image and by class."""

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.store import NewRows, Store, parse_fractions, split_dataset


@pytest.fixture
def store(tmp_path):
    store = Store.init(tmp_path / "store")
    labels = [f"c{n // 10}" for n in range(100)]
    store.create_dataset("d", NewRows(ids=[str(n) for n in range(100)], labels=labels))
    return store


def test_by_image_divides_every_class(store):
    dataset = split_dataset(store, "d", parse_fractions("train=0.7,test=0.3"), by="image", seed=3)
    for code in range(10):
        rows = dataset.select([f"label=c{code}", "split=train"])
        assert len(rows) == 7
    again = split_dataset(store, "d", {"train": 0.7, "test": 0.3}, by="image", seed=3, column="again")
    np.testing.assert_array_equal(dataset.select(["split=test"]), again.select(["again=test"]))
    other = split_dataset(store, "d", {"train": 0.7, "test": 0.3}, by="image", seed=4, column="other")
    assert dataset.select(["split=test"]).tolist() != other.select(["other=test"]).tolist()


def test_by_class_keeps_classes_whole_and_where_keeps_the_rest(store):
    split_dataset(store, "d", {"train": 0.5, "test": 0.5}, by="image")
    dataset = split_dataset(store, "d", {"old": 0.3, "rest": 0.7}, by="class", column="era", where=["split=train"])
    old = dataset.select(["era=old"])
    assert len(old) == 15
    assert len(np.unique(dataset.labels.codes[old])) == 3
    assert dataset.column("era").codes[dataset.select(["split=test"])].max() == -1


@pytest.mark.parametrize("column", ["label", "id"])
def test_a_split_never_takes_the_place_of_classes_or_ids(store, column):
    with pytest.raises(UsageError, match=column):
        split_dataset(store, "d", {"a": 0.5, "b": 0.5}, by="image", column=column)
    assert store.dataset("d").version == 1


@pytest.mark.parametrize("text", ["", "train", "train=2,test=-1", "train=0.5,test=0.6", "a=0.5,a=0.5", "=1"])
def test_fractions_that_mean_nothing(text):
    with pytest.raises(UsageError):
        parse_fractions(text)


def test_small_classes_still_add_up(tmp_path):
    store = Store.init(tmp_path / "s")
    store.create_dataset("d", NewRows(ids=[str(n) for n in range(400)], labels=[str(n // 2) for n in range(400)]))
    dataset = split_dataset(store, "d", {"train": 0.7, "test": 0.3}, by="image")
    assert abs(len(dataset.select(["split=train"])) - 280) <= 25
