import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.store.shard_bytes import ShardBytes, all_finite
from featstore.store.zarr_format import encode_shard


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("rows", [1, 3, 8, 13, 16])
def test_the_pieces_are_those_of_a_shard_encoded_whole(dtype, rows):
    values = np.random.default_rng(rows).normal(size=(rows, 5))
    valid = np.arange(rows) % 3 != 1
    made = ShardBytes(values, valid, np.dtype(dtype), 4, 16)
    whole = values.astype(dtype)
    whole[~valid] = np.nan
    expected = b"".join(encode_shard(whole, 4, 16))
    assert b"".join(made.pieces()) == expected
    assert made.digest == blake3(expected).hexdigest()
    np.testing.assert_array_equal(made.rows(), whole)


@pytest.mark.parametrize("rows", [20, 900])
def test_a_valid_row_that_is_not_finite_stops_the_pieces(rows):
    values = np.zeros((rows, 300), "f4")
    values[rows - 3, 7] = np.inf
    with pytest.raises(FloatingPointError):
        list(ShardBytes(values, np.ones(rows, bool), np.dtype("f4"), 8, 16384).pieces())
    valid = np.ones(rows, bool)
    valid[rows - 3] = False
    assert list(ShardBytes(values, valid, np.dtype("f4"), 8, 16384).pieces())
    with pytest.raises(FloatingPointError):  # too large for the stored type
        list(ShardBytes(np.full((rows, 300), 1e6), np.ones(rows, bool), np.dtype("f2"), 8, 16384).pieces())


@given(hnp.arrays(st.sampled_from(["f2", "f4", "f8"]), hnp.array_shapes(min_dims=2, max_dims=2)))
def test_all_finite_says_yes_only_of_finite_values(values):
    finite = bool(np.isfinite(values).all())
    assert not all_finite(values) or finite
    if values.dtype == np.float16:
        assert all_finite(values) == finite
    elif finite and np.abs(values).max() < 1e30:
        assert all_finite(values)
