"""Two feature sets belong together by number within a dataset and by id across datasets."""

import numpy as np
import pytest

from featstore.errors import AlignmentError
from featstore.spaces import Space
from featstore.store import NewRows, RowStatus, Store, align


@pytest.fixture
def store(tmp_path):
    return Store.init(tmp_path / "store")


def add(store, dataset, ids, invalid=()):
    made = store.create_dataset(dataset, NewRows(ids=ids))
    job = store.plan_features(made, "f", Space.named(dataset, 2), np.dtype("f4"), shard_rows=8)
    status = np.where(np.isin(ids, invalid), RowStatus.FAILED, RowStatus.VALID).astype(np.uint8)
    for shard in job.pending():
        rows = slice(*job.shard_range(shard))
        job.publish(shard, np.array([[hash(text) % 97, 1] for text in ids], "f4")[rows], status=status[rows])
    job.commit({})
    return store.features(f"{dataset}/f")


def test_another_row_order_is_joined_by_id(store):
    left, right = add(store, "a", ["x", "y", "z"]), add(store, "b", ["z", "x", "y"])
    rows, others = align(left, right)
    assert left.dataset.ids.take(rows) == right.dataset.ids.take(others) == ["x", "y", "z"]
    np.testing.assert_array_equal(left.gather(rows), right.gather(others))


def test_the_same_ids_align_by_number_and_invalid_rows_never_come(store):
    left, right = add(store, "a", ["x", "y", "z"], invalid=["y"]), add(store, "b", ["x", "y", "z"], invalid=["z"])
    assert [part.tolist() for part in align(left, right)] == [[0], [0]]


def test_ids_of_one_side_only_are_listed(store):
    left, right = add(store, "a", ["x", "y"]), add(store, "b", ["y", "q"])
    with pytest.raises(AlignmentError, match="1 ids of dataset a are not in dataset b: x"):
        align(left, right)
    assert [part.tolist() for part in align(left, right, missing="drop")] == [[1], [0]]
    with pytest.raises(AlignmentError, match="dataset b are not in dataset c: q"):
        align(add(store, "c", ["y"]), right)


def test_removed_rows_are_left_out(store):
    left, right = add(store, "a", ["x", "y", "z"]), add(store, "b", ["z", "x"])
    store.remove_rows("a", ["y"])
    left = store.features(left.name)
    assert [part.tolist() for part in align(left, right)] == [[0, 2], [1, 0]]
