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
    [
        ("map", 0.468254), ("map@r", 0.25), ("r-precision", 0.5), ("recall@1", 0.0), ("recall@2", 1.0), ("mrr", 0.5),
        ("map@2:R", 0.125), ("map@4:R", 0.25), ("map@8:R", 0.357143),
        ("map@2:minRk", 0.25), ("map@4", 0.25), ("map@8", 0.357143),
        ("map@2:hits", 0.5), ("map@4:hits", 0.5), ("map@8:hits", 0.476190), ("map@1:hits", 0.0),
        ("precision@8", 0.375), ("ir-recall@8", 0.75), ("ndcg@4", 0.414430), ("ndcg@1", 0.0),
        ("precision@10:revisited", 4 / 9), ("precision@4:revisited", 0.5),
    ],
)  # fmt: skip
def test_the_toy_ranking_has_its_known_values(name, expected):
    assert value(name, [0, 1, 0, 1, 0, 0, 1, 0, 1]) == pytest.approx(expected, abs=1e-6)


EVERY = [name.replace("@k", "@3") for name, info in METRICS.items() if info.measure == "ranking"]


@pytest.mark.parametrize("name", [*EVERY, "ndcg@5", "map@9"])
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


def test_trapezoidal_ap_is_the_published_formula():
    """(1/R) Σ_j [(1 if p_j = 0 else j/p_j) + (j + 1)/(p_j + 1)] / 2 over the 0-based positions p_j."""
    positions = [0, 3, 4]
    expected = ((1 + 1) / 2 + (1 / 3 + 2 / 4) / 2 + (2 / 4 + 3 / 5) / 2) / 3
    rel = np.isin(np.arange(9), positions).astype(int)
    assert value("map:trapezoid", rel) == pytest.approx(expected, abs=1e-15)


def test_a_metric_that_a_better_rank_can_lower_has_no_bracket():
    """AP over hits: a second, late hit lowers it."""
    assert value("map@4:hits", [1, 0, 0, 1]) < value("map@4:hits", [1, 0, 0, 0, 1])
    rows = np.ones((3, 2))
    labels = np.array([0, 0, 1])
    result = evaluate_arrays(
        rows[:1], rows, query_labels=labels[:1], gallery_labels=labels, metrics=("map@2:hits", "map@2")
    )
    assert result.bracket("map@2:hits") is None
    assert result.bracket("map@2") == pytest.approx((0.25, 1.0))


def test_unknown_names_list_what_there_is():
    with pytest.raises(UnknownNameError, match=r"no metric called 'mapr'(.|\n)*did you mean map"):
        metric_info("mapr")
    with pytest.raises(UnknownNameError, match=r"no metric called 'map@3:r'"):
        metric_info("map@3:r")
    for name in ("recall@0", "recall@x", "recall@"):
        with pytest.raises(UsageError, match="positive whole number"):
            metric_info(name)
    with pytest.raises(UsageError, match="for example recall@10"):
        metric_info("recall@k")
    for name in ("tar@far=x", "tar@far=0", "tar@far=2", "tpir@fpir=", "tar@far=nan:nearest"):
        with pytest.raises(UsageError, match=r"a rate between 0 and 1"):
            metric_info(name)
    with pytest.raises(UsageError, match="not a metric of rankings"):
        evaluate_arrays(np.ones((1, 1)), np.ones((1, 1)), query_labels=[0], gallery_labels=[0], metrics=("tar@far=1",))
    with pytest.raises(UnknownNameError):
        evaluate_arrays(np.ones((1, 1)), np.ones((1, 1)), query_labels=[0], gallery_labels=[0], metrics=("nope",))


def test_every_metric_says_its_convention_in_one_line():
    for info in METRICS.values():
        assert info.description
        assert info.convention
        assert "\n" not in info.description + info.convention
