"""Ids are data and names are checked: no text that a user brings becomes a path, and all of it comes back as it went in."""

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featstore.errors import BadInputError, UsageError
from featstore.store import Categories, NewRows, Store
from featstore.store.names import check_name, parse_set
from featstore.testing import strategies
from tests.store_factory import add_set

QUICK = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_count = itertools.count()


@pytest.fixture
def store(place):
    return Store.init(place / "store")


def normal(texts):
    return [None if text is None else unicodedata.normalize("NFC", text) for text in texts]


@QUICK
@given(batch=strategies.row_batches())
def test_rows_come_back_as_they_went_in(store, batch):
    name = f"d{next(_count)}"
    before = {info.key for info in store.files.walk()}
    dataset = store.create_dataset(name, batch)
    fresh = Store.open(store.location).dataset(name)
    assert list(fresh.ids) == normal(batch.ids)
    assert fresh.ids.rows_of(batch.ids).tolist() == list(range(len(batch.ids)))
    assert fresh.labels.texts() == list(batch.labels or [None] * dataset.rows)
    for key, values in batch.columns.items():
        column = fresh.column(key)
        if isinstance(column, Categories):
            assert column.texts() == list(values)
        else:
            np.testing.assert_array_equal(column, values)
    # whatever the ids are, the store's files have the store's own names
    for key in {info.key for info in store.files.walk()} - before:
        assert key.startswith(f"datasets/{name}/")
        assert all(part not in ("", ".", "..") for part in key.split("/"))
        assert all(part.isascii() and part.isprintable() and len(part) <= 100 for part in key.split("/"))
    assert [path.name for path in store.files.root.parent.iterdir()] == ["store"]


@QUICK
@given(bad=strategies.bad_ids())
def test_ids_that_cannot_be_are_refused(store, bad):
    with pytest.raises(BadInputError) as caught:
        store.create_dataset("bad", NewRows(ids=["good", bad]))
    assert caught.value.hint
    assert not store.has_dataset("bad")


@QUICK
@given(bad=strategies.bad_names())
def test_names_that_cannot_be_are_refused(store, bad):
    for ask in (
        lambda: store.create_dataset(bad, NewRows(ids=["a"])),
        lambda: store.dataset(bad),
        lambda: store.features(f"d/{bad}"),
        lambda: parse_set(f"{bad}/f"),
    ):
        with pytest.raises(UsageError):
            ask()
    assert [info.key for info in store.files.walk()] == ["featstore.json"]


@QUICK
@given(name=strategies.names())
def test_names_that_can_be_are_taken(name):
    assert check_name(name, "dataset") == name


@QUICK
@given(data=st.data())
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_finite_features_come_back_bit_for_bit(store, data, dtype):
    values = data.draw(strategies.features(5, 3, dtype))
    name = f"d{next(_count)}"
    store.create_dataset(name, NewRows(ids=list("abcde")))
    add_set(store, name, "f", values, shard_rows=4)
    assert store.features(f"{name}/f").gather(np.arange(5)).tobytes() == values.tobytes()
