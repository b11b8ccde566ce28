import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import NonFiniteError
from featstore.evaluate import _score_kernels as kernels
from featstore.evaluate.scores import UNIT_NORM, canonical_scores, is_exact, normalise, prepare, score_error_bound
from tests.evaluate import reference


@pytest.mark.parametrize("width", [1, 3, 8, 11, 64])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_normalisation_and_score_follow_their_definition_to_the_last_bit(width, dtype):
    rng = np.random.default_rng(width)
    query, gallery = (rng.normal(size=(n, width)).astype(dtype) for n in (5, 7))
    left, right = normalise(query, what="queries"), normalise(gallery, what="gallery")
    np.testing.assert_array_equal(left, reference.unit(query))
    rows, columns = np.divmod(np.arange(35), 7)
    np.testing.assert_array_equal(
        canonical_scores(left, right, rows, columns).reshape(5, 7), reference.scores(query, gallery)
    )


def test_normalisation_leaves_its_input_alone_and_takes_read_only_transposed_views():
    raw = np.asfortranarray(np.arange(1, 13, dtype=np.float32).reshape(4, 3))
    raw.flags.writeable = False
    copy = raw.copy()
    np.testing.assert_array_equal(normalise(raw, what="rows"), reference.unit(copy))
    np.testing.assert_array_equal(raw, copy)


def test_every_finite_half_is_widened_exactly():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = every[np.isfinite(every)].reshape(-1, 64)
    rows, _ = prepare(halves, "inner", "gallery", what="rows")
    np.testing.assert_array_equal(rows.view(np.uint32), halves.astype(np.float32).view(np.uint32))


def test_rows_without_direction_are_counted_and_named():
    rows = np.ones((6, 4), np.float32)
    rows[1] = 0
    rows[3, 2] = np.nan
    rows[5, 0] = np.inf
    with pytest.raises(NonFiniteError, match=r"set: 3 of 6 rows .*1 of zero norm, 2 with NaN.*: 11, 13, 15"):
        normalise(rows, what="set", first_row=10)
    with pytest.raises(NonFiniteError, match=r"img-1, img-3, img-5"):
        normalise(rows, what="set", names=lambda rows: [f"img-{row}" for row in rows])


def test_tiny_and_huge_rows_keep_their_direction():
    rows = np.array([[3e-45, 0], [3e38, 3e38], [1e-38, -1e-38]], np.float32)
    np.testing.assert_allclose(
        normalise(rows, what="rows"), [[1, 0], [0.5**0.5, 0.5**0.5], [0.5**0.5, -(0.5**0.5)]], rtol=1e-7
    )


@given(st.integers(1, 700), st.sampled_from([0.0, 0.99, 1.0]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_float32_product_stays_within_the_error_bound_in_any_summation_order(width, alike, seed):
    rng = np.random.default_rng(seed)
    base = np.abs(rng.normal(size=(1, width)))
    query, gallery = (
        normalise(alike * base + (1 - alike) * rng.normal(size=(n, width)) + 1e-9, what="rows") for n in (6, 9)
    )
    rows, columns = np.divmod(np.arange(54), 9)
    exact = canonical_scores(query, gallery, rows, columns).reshape(6, 9)
    in_order = np.zeros((6, 9), np.float32)
    for i in range(width):
        in_order += query[:, i, None] * gallery[None, :, i]
    bound = score_error_bound(width, UNIT_NORM**2)
    assert np.abs(query @ gallery.T - exact).max() <= bound
    assert np.abs(in_order - exact).max() <= bound


@given(st.integers(1, 40), st.integers(0, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_products_of_rows_on_coarse_grids_are_exact_where_that_is_claimed(width, fineness, seed):
    rng = np.random.default_rng(seed)
    query, gallery = (
        (rng.integers(-(2**fineness), 2**fineness + 1, (n, width)) / 2.0 ** rng.integers(0, 9)).astype(np.float32)
        for n in (5, 7)
    )
    grids = [kernels.grid_of(rows, 0, 24) for rows in (query, gallery)]
    limit = np.sqrt(kernels.squared_norms(query).max() * kernels.squared_norms(gallery).max())
    if is_exact(limit, *grids):
        np.testing.assert_array_equal((query @ gallery.T).astype(float), reference.products(query, gallery))


def test_of_rows_finer_than_any_grid_nothing_is_claimed_however_small_they_are():
    rows = np.array([[1.28125e-4, 2.0983885e-5], [-1.071289e-4, 7.2314455e-5]], np.float32)
    grid = kernels.grid_of(rows, 0, 24)
    assert not is_exact(float(kernels.squared_norms(rows).max()), grid, grid)


def test_the_grid_of_rows_is_the_coarsest_that_holds_all_components():
    rows = np.array([[3.0, -0.5], [0.0, 2.25]], np.float32)
    assert kernels.grid_of(rows[:, :1], 0, 24) == 0
    assert kernels.grid_of(rows, 0, 24) == 2
    assert kernels.grid_of(rows, 5, 24) == 5
    assert kernels.grid_of(np.array([[0.1]], np.float32), 0, 24) == 25
    assert is_exact(1.0, 12, 12)
    assert not is_exact(1.0, 12, 13)
