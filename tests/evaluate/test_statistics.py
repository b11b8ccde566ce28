import time

import numpy as np
import pytest

from featstore.errors import AlignmentError, UsageError
from featstore.evaluate.statistics import Column, Resampled, Run, bootstrap_means


def by_definition(runs, resamples, seed):
    """Classes, then queries within each drawn class, then (for several runs) runs: in loops."""
    random = np.random.default_rng(seed)
    classes = np.unique(np.concatenate([run.classes for run in runs]))
    means = []
    for _ in range(resamples):
        drawn = random.choice(classes, len(classes))
        run_means = []
        for number in random.integers(len(runs), size=len(runs)):
            run, values = runs[number], []
            for name in drawn:
                members = run.values[run.classes == name]
                values.extend(members[random.integers(len(members), size=len(members))])
            run_means.append(np.mean(values, axis=0))
        means.append(np.mean(run_means, axis=0))
    return np.array(means)


def unequal_classes(rng, effect=1.0):
    classes = np.repeat(np.arange(12), rng.integers(1, 30, 12))
    hard = effect * rng.normal(size=12)
    return np.stack([hard[classes], classes % 3], axis=1) + rng.normal(size=(len(classes), 2)), classes


def test_one_run_spreads_like_the_definition():
    values, classes = unequal_classes(np.random.default_rng(0))
    fast = bootstrap_means([Run(values, classes)], resamples=4000, seed=1)
    slow = by_definition([Run(values, classes)], 4000, 2)
    np.testing.assert_allclose(fast.mean(axis=0), slow.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(fast.T), np.cov(slow.T), rtol=0.15, atol=0.003)


def test_several_runs_spread_like_the_definition():
    rng = np.random.default_rng(3)
    values, classes = unequal_classes(rng)
    runs = [Run(values + shift + 0.3 * rng.normal(size=values.shape), classes) for shift in (-1.0, 0.0, 2.0)]
    fast = bootstrap_means(runs, resamples=4000, seed=1)
    slow = by_definition(runs, 4000, 2)
    np.testing.assert_allclose(fast.mean(axis=0), slow.mean(axis=0), atol=0.08)
    np.testing.assert_allclose(fast.std(axis=0), slow.std(axis=0), rtol=0.08)


def test_classes_vary_together_so_the_interval_is_wider_than_that_of_independent_queries():
    classes = np.repeat(np.arange(50), 20)
    values = np.random.default_rng(0).normal(size=50)[classes][:, None]
    clustered = bootstrap_means([Run(values, classes)], resamples=2000).std()
    independent = bootstrap_means([Run(values, np.arange(1000))], resamples=2000).std()
    assert clustered == pytest.approx(values.std() / np.sqrt(50), rel=0.1)
    assert independent == pytest.approx(values.std() / np.sqrt(1000), rel=0.1)


def test_the_same_resamples_serve_every_column_so_differences_are_paired():
    values, classes = unequal_classes(np.random.default_rng(0))
    both = np.column_stack([values[:, 0], values[:, 0] + 0.25])
    columns = (Column("old/old", "map"), Column("new/old", "map"))
    resampled = Resampled.of(columns, [Run(both, classes)], resamples=500, seed=0)
    difference = resampled.estimate({columns[1]: 1.0, columns[0]: -1.0})
    assert difference == pytest.approx((0.25, 0.25, 0.25))
    alone = Resampled.of(columns[:1], [Run(both[:, :1], classes)], resamples=500, seed=0)
    np.testing.assert_allclose(alone.means[:, 0], resampled.means[:, 0])


def test_intervals_cover_the_truth_about_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(120):
        classes = np.repeat(np.arange(60), 4)
        values = (rng.normal(size=60)[classes] + rng.normal(size=240))[:, None]
        estimate = Resampled.of([Column("a", "map")], [Run(values, classes)], resamples=300, seed=trial).estimate(
            {Column("a", "map"): 1.0}
        )
        covered += estimate.low <= 0 <= estimate.high
    assert 0.88 <= covered / 120 <= 0.99


def test_two_thousand_resamples_of_five_thousand_queries_take_well_under_a_second():
    rng = np.random.default_rng(0)
    run = Run(rng.random((5000, 20)), rng.integers(0, 100, 5000))
    begin = time.process_time()
    assert bootstrap_means([run]).shape == (2000, 20)
    assert time.process_time() - begin < 1.0


def test_runs_that_do_not_fit_are_refused():
    run = Run(np.ones((3, 2)), np.arange(3))
    with pytest.raises(UsageError, match="a run without queries"):
        bootstrap_means([])
    with pytest.raises(UsageError, match="a run without queries"):
        bootstrap_means([run, Run(np.ones((0, 2)), np.arange(0))])
    with pytest.raises(AlignmentError, match="same columns"):
        bootstrap_means([run, Run(np.ones((3, 1)), np.arange(3))])


@pytest.mark.parametrize(("zeros", "bounded"), [(1, True), (30, False)])
def test_a_ratio_without_a_value_in_some_resamples_keeps_its_interval_only_while_that_is_numbers(zeros, bounded):
    columns = (Column("new/old", "map"), Column("old/old", "map"))
    means = np.column_stack([np.full(100, 0.5), np.linspace(0.1, 0.2, 100)])
    means[:zeros, 1] = 0.0
    resampled = Resampled(columns, np.array([0.5, 0.25]), means)
    found = resampled.function(columns, lambda new, old: new / old)
    assert found.value == 2
    assert (found.high is not None) == bounded
