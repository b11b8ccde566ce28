"""Rows fetched by ranges are the rows of the shard, dense chunks are checked, and sparse rows cost little."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import CorruptStoreError
from featstore.store.local_files import LocalFiles
from featstore.store.ranges import ShardLayout, spans_of
from featstore.store.zarr_format import encode_shard

ROWS, D, CHUNK = 100, 3, 16
VALUES = np.arange(ROWS * D, dtype=np.float32).reshape(ROWS, D)
LAYOUT = ShardLayout(D * 4, CHUNK)
SHARD = b"".join(encode_shard(VALUES, CHUNK, 128))


def fetched(files, rows, index=None):
    items, tail = spans_of(LAYOUT, np.array(rows)).fetch(files, "shard", index)
    return items.view(np.float32).reshape(-1, D), tail


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    files = LocalFiles(tmp_path_factory.mktemp("ranges"))
    files.put_new("shard", [SHARD])
    return files


@settings(max_examples=60)
@given(rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=150))
def test_any_rows_in_any_order(files, rows):
    np.testing.assert_array_equal(fetched(files, rows)[0], VALUES[rows])
    spans = spans_of(LAYOUT, np.array(rows)).spans
    assert all(before.stop <= after.start for before, after in pairwise(spans))
    assert sum(span.stop - span.start for span in spans) <= len(set(rows)) * LAYOUT.row_bytes * 4 + len(spans) * 4


def test_neighbours_are_one_span_and_the_index_comes_along(files):
    assert len(spans_of(LAYOUT, np.array([17, 18])).spans) == 1
    assert len(spans_of(LAYOUT, np.array([17, 19])).spans) == 2
    assert spans_of(LAYOUT, np.array([17])).transferred == LAYOUT.row_bytes
    rows, tail = fetched(files, [5], (len(SHARD) - 4, len(SHARD)))
    np.testing.assert_array_equal(rows, VALUES[[5]])
    assert tail == SHARD[-4:]


def test_damage_in_a_dense_chunk_is_found(tmp_path):
    files = LocalFiles(tmp_path)
    files.put_new("shard", [SHARD[:200], b"?", SHARD[201:]])
    np.testing.assert_array_equal(fetched(files, [0, 1])[0], VALUES[:2])
    with pytest.raises(CorruptStoreError, match=r"chunk 1 of .* does not match"):
        fetched(files, range(16, 20))
    files.put_new("short", [SHARD[:300]])
    with pytest.raises(CorruptStoreError, match="ends too early"):
        spans_of(LAYOUT, np.array([90])).fetch(files, "short", None)
