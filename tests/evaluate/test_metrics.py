from itertools import permutations

import numpy as np
import pytest

from featstore.errors import UnknownNameError, UsageError
from featstore.evaluate.arrays import evaluate_arrays
from featstore.evaluate.metrics import METRICS, metric_info
from tests.evaluate import reference


def ranked(rel):
    """A query, a gallery and labels whose ranking is the given 0/1 list."""
    n = len(rel)
    angles = np.linspace(0.1, 1.2, n)
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.array([[1.0, 0.0]]), gallery, np.array([1]), np.array(rel)


def value(name, rel):
    query, gallery, query_labels, gallery_labels = ranked(rel)
    result = evaluate_arrays(query, gallery, query_labels=query_labels, gallery_labels=gallery_labels, metrics=(name,))
    return result.mean(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("map", 0.468254), ("map@r", 0.25), ("r-precision", 0.5), ("recall@1", 0.0), ("recall@2", 1.0), ("mrr", 0.5)],
)
def test_the_toy_ranking_has_its_known_values(name, expected):
    assert value(name, [0, 1, 0, 1, 0, 0, 1, 0, 1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["map", "map@r", "r-precision", "recall@5", "mrr"])
def test_a_perfect_ranking_is_one(name):
    assert value(name, [1, 1, 1, 0, 0]) == 1.0


def test_queries_without_positives_are_left_out_and_counted():
    rows = np.eye(4, dtype=np.float32) + 0.1
    labels = np.array([0, 0, 1, -1])
    result = evaluate_arrays(
        rows, rows, query_labels=labels, gallery_labels=labels, self_rows=np.arange(4), metrics=("map",)
    )
    assert np.isnan(result.values["map"]).tolist() == [False, False, True, True]
    assert (result.n_queries, result.n_skipped) == (2, 2)
    assert result.mean("map") == np.nanmean(result.values["map"])
    alone = evaluate_arrays(rows, rows, query_labels=labels + 5, gallery_labels=labels)
    assert np.isnan(alone.mean("map"))
    assert alone.n_skipped == 4


def test_expected_map_is_the_mean_over_all_orders_of_the_tied_rows():
    gallery = np.array([[1, 0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0, 1], [0, 1]])
    labels = np.array([0, 1, 0, 1, 0, 1, 0])
    result = evaluate_arrays(gallery[:1], gallery, query_labels=np.array([1]), gallery_labels=labels, metrics=("map",))
    values = [
        reference.metric("map", labels[[0, *middle, *end]])
        for middle in permutations([1, 2, 3, 4])
        for end in permutations([5, 6])
    ]
    assert result.expected_map[0] == pytest.approx(np.mean(values), abs=1e-12)
    assert result.bracket("map") == pytest.approx((min(values), max(values)), abs=1e-12)
    assert result.mean("map") == pytest.approx(reference.metric("map", labels), abs=1e-12)


def test_without_ties_expectation_and_bracket_are_the_value():
    query, gallery, query_labels, gallery_labels = ranked([0, 1, 1, 0])
    result = evaluate_arrays(query, gallery, query_labels=query_labels, gallery_labels=gallery_labels)
    assert result.expected_map[0] == pytest.approx(result.mean("map"), abs=1e-15)
    assert result.bracket("map") == (result.mean("map"), result.mean("map"))
    assert not result.tied.any()


def test_unknown_names_list_what_there_is():
    with pytest.raises(UnknownNameError, match=r"no metric called 'mapr'(.|\n)*did you mean map"):
        metric_info("mapr")
    with pytest.raises(UnknownNameError, match=r"no metric called 'precision@3'"):
        metric_info("precision@3")
    for name in ("recall@0", "recall@x", "recall@"):
        with pytest.raises(UsageError, match="positive whole number"):
            metric_info(name)
    with pytest.raises(UsageError, match="for example recall@10"):
        metric_info("recall@k")
    with pytest.raises(UnknownNameError):
        evaluate_arrays(np.ones((1, 1)), np.ones((1, 1)), query_labels=[0], gallery_labels=[0], metrics=("nope",))


def test_every_metric_says_its_convention_in_one_line():
    for info in METRICS.values():
        assert info.description
        assert info.convention
        assert "\n" not in info.description + info.convention
