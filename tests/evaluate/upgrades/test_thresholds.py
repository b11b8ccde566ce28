"""Thresholds that keep the old false positive rate, against all pairs of scores."""

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.evaluate import EvalRequest, EvalResult, evaluate
from tests.evaluate.reference import scores as canonical_scores
from tests.evaluate.upgrades.shop import CLASSES, N


def pair_scores(query, gallery):
    labels = np.arange(N) % CLASSES
    score = canonical_scores(query, gallery)
    same = labels[:, None] == labels[None]
    return score[same & ~np.eye(N, dtype=bool)], score[~same]


def test_thresholds_keep_the_old_false_positive_rate(store, features):
    request = EvalRequest(
        old="shop/a", new="shop/c", bootstrap=0, fpr=(0.01, 1e-3, 1e-9), thresholds=(0.5,), metrics=("map",)
    )
    result = evaluate(store, request)
    pairs = {
        "old/old": pair_scores(features["a"], features["a"]),
        "new/old": pair_scores(features["c"], features["a"]),
        "new/new": pair_scores(features["c"], features["c"]),
    }
    assert [item.asked for item in result.thresholds] == ["fpr 0.01", "fpr 0.001", "fpr 1e-09", "threshold 0.5"]
    assert [item.resolved for item in result.thresholds] == [True, True, False, True]
    for item, rate in zip(result.thresholds, (0.01, 1e-3, 1e-9, None), strict=True):
        old = item.kept["old/old"]
        assert item.before == "old/old"
        assert old.threshold == 0.5 or old.fpr <= rate
        assert set(item.kept) == set(pairs)
        for role, point in [*item.kept.items(), *item.unchanged.items()]:
            positives, negatives = pairs[role]
            assert point.fpr == (negatives >= point.threshold).mean()
            assert point.tpr == (positives >= point.threshold).mean()
        for role, point in item.unchanged.items():
            assert point.threshold == old.threshold
            negatives = np.sort(pairs[role][1])
            kept = item.kept[role]
            assert kept.fpr <= old.fpr
            just_below = negatives[negatives < kept.threshold].max()
            assert (negatives >= just_below).mean() > old.fpr  # the smallest threshold that keeps the rate
    for role, (positives, negatives) in pairs.items():
        shown = result.distributions[role]
        edges = np.linspace(shown.low, shown.high, len(shown.positives) + 1)
        np.testing.assert_array_equal(shown.positives, np.histogram(np.clip(positives, -1, 1), edges)[0])
        assert sum(shown.negatives) == len(negatives)
    again = EvalResult.model_validate_json(result.to_json())
    assert again.model_dump() == result.model_dump()


def test_a_threshold_that_cannot_be_is_refused(store):
    for wrong in ({"fpr": (2.0,)}, {"thresholds": (-3.0,)}):
        with pytest.raises(UsageError, match="is no "):
            evaluate(store, EvalRequest(old="shop/a", bootstrap=0, **wrong))
    alone = evaluate(store, EvalRequest(query="shop/c", gallery="shop/a", bootstrap=0, fpr=(0.01,)))
    assert list(alone.thresholds[0].kept) == ["query/gallery"]
