"""Criterion, gains, scores, chains and flips, by definition and against published numbers."""

import numpy as np
import pytest

from featstore.evaluate.chain import (
    average_compatibility,
    average_metric,
    backward_compatibility,
    forward_compatibility,
)
from featstore.evaluate.compatibility import advbct, all_of, baseline, comparisons, gain, subject_of, verdict
from featstore.evaluate.flips import negative_flips, positive_flips, relative_rate
from featstore.evaluate.statistics import Column, Estimate, Resampled


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.03, True), (0.0, 0.03, None), (-0.02, 0.03, None), (-0.02, 0.0, False), (-0.2, -0.1, False)],
)
def test_the_verdict_is_the_interval_s(low, high, expected):
    assert verdict(Estimate(0.01, low, high)) is expected


def test_without_an_interval_the_verdict_is_undecided_and_one_failure_decides_for_all():
    assert verdict(Estimate(0.5, None, None)) is None
    assert all_of([True, True]) is True
    assert all_of([True, None]) is None
    assert all_of([None, False, True]) is False


def test_every_cross_test_is_compared_with_its_gallery_s_own_model():
    assert baseline("new/old") == baseline("mapped-new/old") == baseline("new/mapped-old") == "old/old"
    assert baseline("v3/v2") == "v2/v2"
    assert [baseline(role) for role in ("old/old", "reference", "query/gallery", "v2/v2")] == [None] * 4
    upgrade = ["old/old", "new/old", "mapped-new/old", "new/new", "reference"]
    assert comparisons(upgrade) == [
        ("new/old", "old/old"),
        ("mapped-new/old", "old/old"),
        ("new/new", "old/old"),
        ("reference", "old/old"),
        ("new/new", "reference"),
    ]
    assert comparisons(["new/old"]) == comparisons(["query/gallery"]) == comparisons(["reference"]) == []
    chain = ["v1/v1", "v2/v1", "v2/v2", "v3/v1", "v3/v2", "v3/v3"]
    assert dict(comparisons(chain)) == {
        "v2/v1": "v1/v1",
        "v3/v1": "v1/v1",
        "v3/v2": "v2/v2",
        "v2/v2": "v1/v1",
        "v3/v3": "v1/v1",
    }


def test_the_subject_is_the_newest_model_on_the_oldest_gallery():
    assert subject_of(["old/old", "new/old", "new/mapped-old", "new/new"]) == "new/old"
    assert subject_of(["old/old", "new/mapped-old", "new/new"]) == "new/mapped-old"
    assert subject_of(["v1/v1", "v2/v1", "v2/v2", "v3/v1", "v3/v2", "v3/v3"]) == "v3/v1"
    assert subject_of(["old/old", "reference"]) is subject_of(["query/gallery"]) is None


# (old/old, reference, new/new, new/old) of RParis, ROxford and GLDv2 in percent, and the row's P_up, P_comp and P_1, as
# printed in the result table of the AdvBCT repository
BASELINES = {
    "more data": ((75.45, 81.15), (49.15, 63.85), (10.03, 16.48)),
    "more classes": ((74.29, 81.15), (54.34, 63.85), (11.43, 16.48)),
}
PUBLISHED = [
    ("more data", (80.58, 77.37), (56.34, 49.66), (14.61, 11.30), (48.02, 54.71, 51.13)),
    ("more data", (80.93, 78.30), (57.24, 50.97), (16.06, 13.25), (48.90, 59.19, 53.52)),
    ("more data", (79.57, 76.53), (58.15, 50.05), (13.88, 10.35), (47.78, 52.50, 50.03)),
    ("more data", (82.78, 78.55), (62.13, 52.31), (15.71, 11.49), (49.55, 58.09, 53.45)),
    ("more classes", (79.45, 76.13), (58.94, 53.43), (14.79, 12.26), (48.33, 52.79, 50.41)),
    ("more classes", (78.93, 75.33), (60.31, 51.68), (14.00, 10.41), (48.06, 47.26, 47.57)),
    ("more classes", (82.05, 77.16), (64.51, 54.82), (16.44, 12.05), (50.16, 54.87, 52.35)),
]


@pytest.mark.parametrize(("setting", "paris", "oxford", "landmarks", "printed"), PUBLISHED)
def test_advbct_scores_are_those_of_its_published_table(setting, paris, oxford, landmarks, printed):
    old, reference = np.array(BASELINES[setting]).T
    new, cross = np.array([paris, oxford, landmarks]).T
    found = [100 * score.mean() for score in advbct(cross, old, reference, new)]
    assert found == pytest.approx(printed, abs=0.0101)


def test_chain_scores_by_hand():
    matrix = np.array([[0.5, 0, 0], [0.55, 0.6, 0], [0.45, 0.6, 0.7]])
    assert average_compatibility(matrix) == pytest.approx(1 / 3)
    assert average_compatibility(matrix, strict=False) == pytest.approx(2 / 3)
    assert backward_compatibility(matrix) == pytest.approx(-0.025)
    assert forward_compatibility(matrix) == pytest.approx(-0.075)
    assert average_metric(matrix) == pytest.approx(0.566667, abs=1e-6)
    with_zero = np.array([[0.5, 0], [0.0, 0.6]])
    assert average_metric(with_zero) == pytest.approx(1.1 / 3)  # public code drops the zero: 0.55


def test_chain_scores_by_definition_for_many_matrices_at_once():
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 8, (50, 5, 5)) / 8
    for strict in (True, False):
        expected = [
            np.mean([m[i, j] > m[j, j] or (not strict and m[i, j] == m[j, j]) for i in range(5) for j in range(i)])
            for m in stack
        ]
        np.testing.assert_allclose(average_compatibility(stack, strict=strict), expected)
    np.testing.assert_allclose(
        backward_compatibility(stack), [sum(m[4, i] - m[i, i] for i in range(4)) / 4 for m in stack]
    )
    np.testing.assert_allclose(
        forward_compatibility(stack), [sum(m[i, i - 1] - m[i, i] for i in range(1, 5)) / 4 for m in stack]
    )
    np.testing.assert_allclose(
        average_metric(stack), [np.mean([m[i, j] for i in range(5) for j in range(i + 1)]) for m in stack]
    )


def test_flips_by_definition():
    before = np.array([1.0, 1.0, 0.0, 0.0, 1.0, np.nan])
    after = np.array([1.0, 0.0, 1.0, 0.0, 0.0, np.nan])
    np.testing.assert_array_equal(negative_flips(before, after), [0, 1, 0, 0, 1, np.nan])
    np.testing.assert_array_equal(positive_flips(before, after), [0, 0, 1, 0, 0, np.nan])
    # error rates 0.4 before and 0.6 after: independent errors would flip 0.6 × 0.6
    assert relative_rate(np.float64(0.4), np.float64(0.6), np.float64(0.4)) == pytest.approx(0.4 / 0.36)
    np.testing.assert_array_equal(relative_rate(np.zeros(2), np.array([0.0, 0.5]), np.array([0.5, 1.0])), [0, 0])


def resampled(reference_low=0.05, *, bootstrap=True):
    """Means with a spread of ±0.01 of new/old, old/old, new/new and a reference whose gain begins at `reference_low`."""
    columns = [Column(role, "map") for role in ("new/old", "old/old", "new/new", "reference")]
    points = np.array([0.42, 0.4, 0.47, 0.4 + reference_low + 0.02])
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, (500, 4)) * [1, 0, 1, 2]
    return Resampled(tuple(columns), points, points + noise if bootstrap else np.empty((0, 4)))


def found_gain(means):
    return gain("map", means, subject="new/old", before="old/old", after="new/new")


def test_gains_need_a_reference_that_is_surely_better():
    found = found_gain(resampled())
    assert found.reason is None
    assert found.update_gain.value == pytest.approx(0.02 / 0.07)
    assert found.update_gain.low < found.update_gain.value < found.update_gain.high
    assert found.scores.p_up.value == pytest.approx(1 / (1 + np.exp(0)))
    assert found.scores.p_comp.value == pytest.approx(1 / (1 + np.exp(-0.02 / 0.07)))
    up, comp = found.scores.p_up.value, found.scores.p_comp.value
    assert found.scores.p_1.value == pytest.approx(2 * up * comp / (up + comp))
    unsure = found_gain(resampled(-0.01))
    assert (unsure.update_gain, unsure.scores) == (None, None)
    assert "not surely better than old/old" in unsure.reason
    assert "bootstrap" in found_gain(resampled(bootstrap=False)).reason
    means = resampled()
    alone = Resampled(means.columns[:3], means.points[:3], means.means[:, :3])
    assert found_gain(alone).reason == "no reference set was given"
