"""Block-shuffled batches: every row once, by the seed alone, mixed well; tensors without copies."""

import threading

import numpy as np
import pytest
import torch

from featstore.errors import IncompleteError, UsageError
from featstore.spaces import Space
from featstore.store import RowStatus, Store, shuffle
from featstore.tensors import Tensors
from tests.store.test_store import fill, rows_of

N, D = 1000, 5


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 32 rows."""
    monkeypatch.setattr(shuffle, "_BLOCK_BYTES", 32 * D * 4)


def make(place, values, shard_rows, status=None):
    store = Store.init(place)
    store.create_dataset("d", rows_of(N))
    return fill(store, "d/f", values, space=Space.named("x", D), shard_rows=shard_rows, status=status)


@pytest.mark.usefixtures("small_blocks")
def test_every_chosen_row_comes_once_in_an_order_that_only_the_seed_decides(tmp_path, bucket, values):
    places = [make(tmp_path / "a", values, 64), make(tmp_path / "b", values, 512), make(f"{bucket}/c", values, 128)]
    places.append(Store.open(f"{bucket}/c").materialise("d/f"))
    chosen = np.random.default_rng(1).permutation(N)[:617]
    for rows in (None, chosen, [3], []):
        epochs = []
        for features in places:
            batches = list(features.shuffled(48, [7, 0], buffer_blocks=4, rows=rows))
            for numbers, block in batches:
                np.testing.assert_array_equal(block, values[numbers])
            assert all(len(numbers) == 48 for numbers, _ in batches[:-1])
            epochs.append(np.concatenate([np.zeros(0, int), *(numbers for numbers, _ in batches)]))
        assert sorted(epochs[0]) == sorted(range(N) if rows is None else rows)
        assert all(np.array_equal(epoch, epochs[0]) for epoch in epochs)
    other = np.concatenate([numbers for numbers, _ in places[0].shuffled(48, [7, 1], buffer_blocks=4, rows=chosen)])
    assert not np.array_equal(other, epochs[0])


@pytest.mark.usefixtures("small_blocks")
def test_batches_are_mixed(tmp_path, values):
    features = make(tmp_path / "a", values, 64)
    order = np.concatenate([numbers for numbers, _ in features.shuffled(10, 0)])
    place = np.argsort(order)
    # neighbours in the set are far apart in the epoch: within a buffer of 256 rows, about 85 on average
    assert np.abs(np.diff(place)).mean() > 60
    # and the buffers themselves come in random order
    assert abs(np.corrcoef(place, np.arange(N))[0, 1]) < 0.5


def test_invalid_rows_never_come(tmp_path, values):
    status = np.where(np.arange(N) % 5 == 0, RowStatus.FAILED, RowStatus.VALID).astype(np.uint8)
    features = make(tmp_path / "a", values, 64, status)
    seen = np.concatenate([numbers for numbers, _ in features.shuffled(100, 0)])
    assert sorted(seen) == np.flatnonzero(status == RowStatus.VALID).tolist()
    with pytest.raises(IncompleteError):
        features.shuffled(100, 0, rows=[5])
    with pytest.raises(IndexError):
        features.shuffled(100, 0, rows=[N])
    for wrong in ({"batch": 0}, {"batch": 1, "buffer_blocks": 0}):
        with pytest.raises(UsageError, match="1 or more"):
            features.shuffled(seed=0, **wrong)


def test_stopping_early_leaves_no_thread_behind(tmp_path, values):
    before = threading.active_count()
    next(make(tmp_path / "a", values, 64).shuffled(10, 0))
    assert threading.active_count() == before


def test_tensors_share_memory_where_they_can(tmp_path, values):
    features = make(tmp_path / "a", values, 64)
    tensors = Tensors(features)
    rows = torch.tensor([5, 999, 5])
    torch.testing.assert_close(tensors.gather(rows), torch.from_numpy(values)[rows], rtol=0, atol=0)
    out = torch.empty(3, D)
    assert tensors.gather(rows, out) is out
    assert torch.equal(out, torch.from_numpy(values)[rows])
    assert torch.equal(tensors.take_ids(["c1/4.png"]), torch.from_numpy(values[[4]]))
    for first, block in tensors.scan():
        assert torch.equal(block, torch.from_numpy(values[first : first + len(block)]))
    for numbers, block in tensors.shuffled(100, 0, rows=torch.arange(10)):
        assert torch.equal(block, torch.from_numpy(values)[numbers])
    (_, view), (_, block) = next(features.scan()), next(tensors.scan())
    assert block.data_ptr() == view.__array_interface__["data"][0]
    block.zero_()  # private to this process
    again = Store.open(tmp_path / "a").features("d/f")
    np.testing.assert_array_equal(again.gather([0]), values[[0]])
