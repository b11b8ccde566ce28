"""Distributions and thresholds over all pairs, against sorting all of them."""

import numpy as np
import pytest

from featstore.evaluate.blocking import Blocking
from featstore.evaluate.pair_scores import ACCEPT_ALL, BINS, PairScores
from featstore.evaluate.relevance import ByLabel
from featstore.evaluate.sorted_runs import SortedRuns
from featstore.evaluate.vectors import ArrayVectors
from tests.evaluate.reference import scores as canonical

SMALL = Blocking(gallery_rows=7, tile_queries=3, keep_bytes=0)


def problem(seed=0, n_query=23, n_gallery=61, width=12, *, coarse=False):
    """Rows with ties (`coarse`), five classes, and some queries that are in the gallery."""
    rng = np.random.default_rng(seed)
    gallery = rng.integers(-2, 3, (n_gallery, 3)).astype(np.float32) if coarse else rng.normal(size=(n_gallery, width))
    gallery = np.where(np.abs(gallery).sum(axis=1, keepdims=True) == 0, 1.0, gallery).astype(np.float32)
    own = np.where(rng.random(n_query) < 0.5, rng.permutation(n_gallery)[:n_query], -1)
    query = np.where(own[:, None] >= 0, gallery[own], rng.permutation(gallery)[:n_query]).astype(np.float32)
    labels = rng.integers(0, 5, n_gallery)
    query_labels = np.where(own >= 0, labels[own], rng.integers(0, 5, n_query))
    score = canonical(query, gallery)
    keep = np.arange(n_gallery)[None] != own[:, None]
    relevant = (labels[None] == query_labels[:, None]) & keep
    pairs = (ArrayVectors(query), ArrayVectors(gallery), ByLabel(query_labels, labels, own))
    return pairs, score[relevant], score[~relevant & keep]


@pytest.mark.parametrize("blocking", [SMALL, Blocking()])
@pytest.mark.parametrize("coarse", [False, True])
def test_thresholds_let_exactly_the_allowed_negatives_through(blocking, coarse):
    pairs, positives, negatives = problem(coarse=coarse)
    found = PairScores(*pairs, blocking=blocking)
    assert (found.n_positives, found.n_negatives) == (len(positives), len(negatives))
    allowed = [0, 1, 5, len(negatives) // 2, len(negatives) - 1, len(negatives), len(negatives) + 3]
    at = [-1.0, -0.2, 0.0, float(negatives[3]), float(np.nextafter(negatives[3], 2)), 0.9999999, 1.0]
    solved = found.solve(at, allowed)
    assert solved.accepted == [int((negatives >= threshold).sum()) for threshold in at]
    descending = np.sort(negatives)[::-1]
    for count, (threshold, accepted) in zip(allowed, solved.found, strict=True):
        assert (negatives >= threshold).sum() == accepted <= count
        if count < len(negatives):  # the smallest such threshold: what it refuses first is the next score below it
            assert threshold == np.nextafter(descending[count], 2)
        else:
            assert threshold == ACCEPT_ALL
    assert found.positives_at_least(at) == [int((positives >= threshold).sum()) for threshold in at]


def test_nothing_depends_on_how_the_work_is_cut(monkeypatch):
    results = []
    for rows, queries, threads in ((1, 1, 1), (5, 2, 3), (61, 23, 2), (8192, 256, 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        pairs, *_ = problem(seed=3, width=40)
        found = PairScores(*pairs, blocking=Blocking(gallery_rows=rows, tile_queries=queries, keep_bytes=0))
        results.append(found.solve([0.1], [0, 7, 100]))
    assert all(result == results[0] for result in results)


def test_histograms_count_every_pair_once():
    pairs, positives, negatives = problem()
    found = PairScores(*pairs, blocking=SMALL).histogram()
    edges = np.linspace(-1, 1, BINS + 1)
    inside = np.clip(positives, -1, 1)
    np.testing.assert_array_equal(found.positives, np.histogram(inside, edges)[0])
    assert found.negatives.sum() == len(negatives)
    exact = np.histogram(np.clip(negatives, -1, 1), edges)[0]
    assert np.abs(np.cumsum(found.negatives) - np.cumsum(exact)).max() <= 5  # float32 at a bin's edge


@pytest.mark.parametrize("merge", [4, 64, 1 << 23])
@pytest.mark.parametrize("distinct", [2, 9, 10**6])
def test_sorted_runs_count_as_one_sorted_array_does(merge, distinct, monkeypatch):
    monkeypatch.setattr("featstore.evaluate.sorted_runs._RUN", 10)
    monkeypatch.setattr("featstore.evaluate.sorted_runs._MERGE", merge)
    rng = np.random.default_rng(distinct)
    tally, parts = SortedRuns(), []
    for n in rng.integers(0, 40, 30):
        parts.append(rng.integers(-distinct, distinct, n) / distinct)
        tally.add(parts[-1])
    scores = np.sort(np.concatenate(parts))[::-1]
    assert [tally.greatest(rank) for rank in (0, len(scores) + 1)] == [None, None]
    for rank in range(1, len(scores) + 1, 7):
        score = tally.greatest(rank)
        assert score == scores[rank - 1]
        assert (tally.above(score), tally.at_least(score)) == ((scores > score).sum(), (scores >= score).sum())


def test_many_equal_scores_are_kept_with_their_counts(monkeypatch):
    monkeypatch.setattr("featstore.evaluate.sorted_runs._RUN", 16)
    monkeypatch.setattr("featstore.evaluate.sorted_runs._MERGE", 16)
    test_thresholds_let_exactly_the_allowed_negatives_through(SMALL, coarse=True)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_sample_narrows_the_windows_and_changes_nothing(coarse, monkeypatch):
    pairs, _, negatives = problem(seed=5, n_query=120, n_gallery=400, coarse=coarse)
    allowed = [0, 3, 40, 4000, len(negatives) // 2, len(negatives) - 1]
    expected = PairScores(*pairs).solve([0.25], allowed)
    collected = []
    monkeypatch.setattr(
        "featstore.evaluate.order_statistics.SortedRuns.add",
        lambda self, scores, add=SortedRuns.add: (collected.append(len(scores)), add(self, scores)),
    )
    for sample in (2, 500, 5000):
        collected.clear()
        assert PairScores(*pairs, sample=sample, blocking=SMALL).solve([0.25], allowed) == expected
    if not coarse:
        assert sum(collected) < len(negatives)


def test_a_window_that_missed_is_widened(monkeypatch):
    pairs, *_ = problem(seed=6, n_query=60, n_gallery=300)
    expected = PairScores(*pairs).solve([], [7, 900])
    monkeypatch.setattr("featstore.evaluate.pair_scores._REACH", 1e-6)
    assert PairScores(*pairs, sample=300).solve([], [7, 900]) == expected
