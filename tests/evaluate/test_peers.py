"""Peers where they are right, to 1e-9; and the right answer where public evaluators are known to be wrong."""

import numpy as np
import pytest

from featstore.evaluate import evaluate_arrays
from featstore.evaluate.arrays import evaluate_vectors
from featstore.evaluate.relevance import ByLabel, OtherCameras
from featstore.evaluate.vectors import ArrayVectors
from tests.evaluate import reference

METRICS = ("map", "map@10:R", "precision@10", "ir-recall@10", "ndcg@10", "mrr", "r-precision")


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 330)
    features = (rng.normal(size=(9, 8))[labels] + 1.4 * rng.normal(size=(330, 8))).astype(np.float32)
    query, gallery, query_labels, gallery_labels = features[:30], features[30:], labels[:30], labels[30:]
    scores = reference.scores(query, gallery)
    assert all(len(np.unique(row.astype(np.float32))) == len(row) for row in scores)  # no peer sees a tie
    found = evaluate_arrays(query, gallery, query_labels=query_labels, gallery_labels=gallery_labels, metrics=METRICS)
    return scores, query_labels[:, None] == gallery_labels, found


def test_scikit_learn_agrees_on_average_precision_and_ndcg(problem):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, relevant, found = problem
    for row, hits, ours, gain in zip(scores, relevant, found.values["map"], found.values["ndcg@10"], strict=True):
        assert metrics.average_precision_score(hits, row) == pytest.approx(ours, abs=1e-9)
        assert metrics.ndcg_score([hits.astype(float)], [row], k=10) == pytest.approx(gain, abs=1e-9)


def test_trec_eval_agrees(problem):
    trec = pytest.importorskip("pytrec_eval")
    scores, relevant, found = problem
    names = [f"d{row:03d}" for row in range(scores.shape[1])]
    run = {str(q): dict(zip(names, row.tolist(), strict=True)) for q, row in enumerate(scores)}
    truth = {str(q): {names[row]: 1 for row in np.flatnonzero(hits)} for q, hits in enumerate(relevant)}
    theirs = {
        "map": "map", "map@10:R": "map_cut_10", "precision@10": "P_10", "ir-recall@10": "recall_10",
        "ndcg@10": "ndcg_cut_10", "mrr": "recip_rank", "r-precision": "Rprec",
    }  # fmt: skip
    measured = trec.RelevanceEvaluator(
        truth, {"map", "map_cut", "P", "recall", "ndcg_cut", "recip_rank", "Rprec"}
    ).evaluate(run)
    for ours, name in theirs.items():
        for q, value in enumerate(found.values[ours]):
            assert measured[str(q)][name] == pytest.approx(value, abs=1e-9), ours


@pytest.mark.filterwarnings("ignore")  # its own kernels and dependencies warn
def test_ranx_agrees(problem):
    ranx = pytest.importorskip("ranx")
    scores, relevant, found = problem
    run = {f"q{q}": {f"d{row}": float(score) for row, score in enumerate(line)} for q, line in enumerate(scores)}
    truth = {f"q{q}": {f"d{row}": 1 for row in np.flatnonzero(hits)} for q, hits in enumerate(relevant)}
    measured = ranx.evaluate(ranx.Qrels(truth), ranx.Run(run), ["map", "map@10", "ndcg@10", "mrr"])
    for ours, name in {"map": "map", "map@10:R": "map@10", "ndcg@10": "ndcg@10", "mrr": "mrr"}.items():
        assert measured[name] == pytest.approx(found.mean(ours), abs=1e-9)


def directions(*distances):
    """Unit rows whose cosine with (1, 0) falls with these distances."""
    return np.stack([1 - np.array(distances), np.sqrt(1 - (1 - np.array(distances)) ** 2)], axis=1)


def test_query_and_gallery_labels_may_differ():
    """The cmc of several public repositories gives 1 for everything here; the right top-1 is 0."""
    gallery = directions(0.1, 0.2, 0.3, 0.4)
    for label, labels in ((0, [1, 1, 0, 0]), (1, [0, 0, 1, 1])):
        found = evaluate_arrays(
            gallery[:1] * 0 + [1, 0], gallery, query_labels=np.array([label]), gallery_labels=np.array(labels),
            metrics=("recall@1", "recall@2", "recall@3"),
        )  # fmt: skip
        assert [found.mean(name) for name in found.values] == [0, 0, 1]


def test_equal_label_lists_of_different_images_exclude_nothing():
    query, gallery = directions(0.0, 0.5), directions(0.01, 0.51)
    labels = np.array([0, 1])
    found = evaluate_arrays(query, gallery, query_labels=labels, gallery_labels=labels, metrics=("recall@1",))
    assert found.mean("recall@1") == 1


def test_normalisation_is_euclidean():
    """With p = 1, (1, 0.2) lies nearer to (1, 0) than to itself."""
    rows = np.array([[1.0, 0.2], [1.0, 0.0]])
    found = evaluate_arrays(
        rows[:1], rows, query_labels=np.array([0]), gallery_labels=np.array([0, 1]), metrics=("recall@1",)
    )
    assert found.mean("recall@1") == 1


def test_large_labels_stay_apart():
    """As float32, 16777216 and 16777217 are one class."""
    labels = np.array([16777216, 16777217])
    rows = np.eye(2)
    found = evaluate_arrays(rows, rows, query_labels=labels, gallery_labels=labels, self_rows=np.arange(2))
    assert found.n_queries == 0
    assert np.isnan(found.mean("map"))


def test_negative_scores_count_like_all_others():
    """A peer takes relevance away where the score is not positive."""
    rng = np.random.default_rng(1)
    gallery, labels = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    query = np.hstack([rng.normal(size=(5, 4)), np.ones((5, 1))])
    found = [
        evaluate_arrays(
            query, np.hstack([gallery, np.full((50, 1), shift)]), query_labels=labels[:5], gallery_labels=labels,
            metrics=("map", "ir-recall@8"), kind="inner",
        )
        for shift in (0.0, -8.0)
    ]  # fmt: skip
    for name in ("map", "ir-recall@8"):
        np.testing.assert_allclose(found[1].values[name], found[0].values[name])


def test_rankings_of_different_lengths_share_no_state():
    """Public re-id code fails on short rankings, or reuses a buffer so that results depend on the order of queries."""
    rng = np.random.default_rng(2)
    labels, cameras = rng.integers(0, 4, 20), rng.integers(0, 2, 20)
    rows = rng.normal(size=(20, 3))

    def values(order):
        relevance = OtherCameras(ByLabel(labels[order], labels), cameras[order], cameras)
        sides = ArrayVectors(rows[order]), ArrayVectors(rows)
        return evaluate_vectors(*sides, relevance, ("map", "recall@1", "recall@50")).values

    straight, backwards = values(np.arange(20)), values(np.arange(20)[::-1])
    for name, found in straight.items():
        np.testing.assert_array_equal(found, backwards[name][::-1])
    assert np.nanmin(straight["recall@50"]) == 1
