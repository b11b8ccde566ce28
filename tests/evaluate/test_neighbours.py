import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import AlignmentError, UsageError
from featstore.evaluate import top_k
from featstore.evaluate.blocking import Blocking
from tests.evaluate import reference
from tests.evaluate.test_ranks import problems


@given(problems(), st.integers(1, 50), st.integers(1, 45), st.integers(1, 13))
@settings(max_examples=100, deadline=None)
def test_top_k_equals_sorting_by_the_definition(problem, k, gallery_rows, tile_queries):
    query, gallery, _, _, self_rows = problem
    found = top_k(query, gallery, k, self_rows, blocking=Blocking(gallery_rows=gallery_rows, tile_queries=tile_queries))
    scores = reference.scores(query, gallery)
    for q in range(len(query)):
        rows = np.flatnonzero(np.arange(len(gallery)) != self_rows[q])
        rows = rows[np.lexsort((rows, -scores[q, rows]))][:k]
        np.testing.assert_array_equal(found.rows[q, : len(rows)], rows)
        np.testing.assert_array_equal(found.scores[q, : len(rows)], scores[q, rows])
        assert (found.rows[q, len(rows) :] == -1).all()
        assert np.isnan(found.scores[q, len(rows) :]).all()


def test_what_cannot_be_searched_is_refused():
    rows = np.ones((2, 3), np.float32)
    with pytest.raises(AlignmentError, match="width 3, gallery rows 2"):
        top_k(rows, rows[:, :2], 1)
    with pytest.raises(UsageError, match="at least 1"):
        top_k(rows, rows, 0)
