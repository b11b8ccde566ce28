"""Invariant 7: every metric is exact, independent of block size, shard order and row order; ties as documented."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import AlignmentError, NonFiniteError, UsageError
from featstore.evaluate.arrays import evaluate_arrays, evaluate_vectors
from featstore.evaluate.blocking import DEFAULT_BLOCKING, Blocking, parse_memory
from featstore.evaluate.metrics import METRICS as REGISTRY
from featstore.evaluate.metrics import metric_info
from featstore.evaluate.ranks import RankCounter, ranked_blocks
from featstore.evaluate.relevance import ByLabel
from featstore.evaluate.scores import normalise
from featstore.evaluate.vectors import ArrayVectors
from tests.evaluate import reference

METRICS = ("recall@1", *(name.replace("@k", "@3") for name, info in REGISTRY.items() if info.measure == "ranking"))
MONOTONE = tuple(name for name in METRICS if metric_info(name)[0].monotone)


@st.composite
def problems(draw):
    """A retrieval problem with features of few small integers, so that many scores tie, or normal, so that none does."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_query, n_gallery, width = draw(st.integers(1, 12)), draw(st.integers(1, 40)), draw(st.integers(1, 20))
    n_classes = draw(st.integers(1, 5))
    tied = draw(st.booleans())
    dtype = draw(st.sampled_from([np.float16, np.float32]))

    def features(n):
        rows = rng.integers(-1, 2, (n, width)) if tied else rng.normal(size=(n, width))
        rows = rows.astype(dtype)
        rows[~rows.any(axis=1)] = 1
        return rows

    query, gallery = features(n_query), features(n_gallery)
    query_labels = rng.integers(-1, n_classes, n_query)
    gallery_labels = rng.integers(-1, n_classes, n_gallery)
    self_rows = rng.integers(-1, n_gallery, n_query)
    return query, gallery, query_labels, gallery_labels, self_rows


def by_sorting(query, gallery, query_labels, gallery_labels, self_rows, order="row", kind="cosine"):
    """Per-query values of METRICS by sorting the reference scores."""
    scores = reference.scores(query, gallery, kind)
    values = {name: np.full(len(query), np.nan) for name in METRICS}
    for q in range(len(query)):
        keep = np.arange(len(gallery)) != self_rows[q]
        relevant = (gallery_labels == query_labels[q]) & (query_labels[q] >= 0)
        if not (relevant & keep).any():
            continue
        score = scores[q].copy()
        if order != "row":
            score += np.where(relevant, 0, 1e-13 if order == "worst" else -1e-13)
        rel = reference.relevance_of_ranking(score, relevant, keep)
        for name in METRICS:
            values[name][q] = reference.metric(name, rel)
    return values


def evaluated(problem, blocking=DEFAULT_BLOCKING, kind="cosine"):
    query, gallery, query_labels, gallery_labels, self_rows = problem
    return evaluate_vectors(
        ArrayVectors(query),
        ArrayVectors(gallery),
        ByLabel(query_labels, gallery_labels, self_rows),
        METRICS,
        blocking=blocking,
        kind=kind,
    )


@given(problems())
@settings(max_examples=150, deadline=None)
def test_metrics_equal_sorting_by_the_definition_ties_in_row_order(problem):
    found, expected = evaluated(problem), by_sorting(*problem)
    for name in METRICS:
        np.testing.assert_allclose(found.values[name], expected[name], rtol=1e-12, err_msg=name)
    assert found.n_skipped == np.isnan(expected["map"]).sum()


@given(problems(), st.sampled_from(["inner", "euclidean"]), st.sampled_from([1.0, 2e-4, 300.0]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_inner_products_and_distances_equal_sorting_by_the_definition(problem, kind, size, with_zero):
    query, gallery, *rest = problem
    query, gallery = query.astype(np.float32) * np.float32(size), gallery.astype(np.float32) * np.float32(size)
    gallery[0] *= not with_zero
    found, expected = evaluated((query, gallery, *rest), kind=kind), by_sorting(query, gallery, *rest, kind=kind)
    for name in METRICS:
        np.testing.assert_allclose(found.values[name], expected[name], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["cosine", "inner"])
def test_signs_tie_everywhere_and_rank_by_the_definition(kind):
    """Their GEMM scores are exact, and never computed again."""
    rng = np.random.default_rng(5)
    gallery, labels = np.sign(rng.normal(size=(400, 16))), rng.integers(0, 7, 400)
    problem = gallery[:30], gallery, labels[:30], labels, np.arange(30)
    found, expected = (
        evaluated(problem, Blocking(gallery_rows=64, tile_queries=7), kind),
        by_sorting(*problem, kind=kind),
    )
    for name in METRICS:
        np.testing.assert_allclose(found.values[name], expected[name], rtol=1e-12, err_msg=name)
    assert found.tied.all()


def test_distances_rank_as_distances_do():
    rng = np.random.default_rng(3)
    query, gallery = 5 + rng.normal(size=(20, 6)), 5 + rng.normal(size=(200, 6)) * rng.uniform(0.1, 3, (200, 1))
    labels = rng.integers(0, 9, 200)
    found = evaluated((query, gallery, labels[:20], labels, np.full(20, -1)), kind="euclidean")
    for q in range(20):
        near = np.argsort(((gallery.astype(np.float32) - query[q].astype(np.float32)) ** 2.0).sum(axis=1))
        assert found.values["map"][q] == pytest.approx(reference.metric("map", (labels[near] == labels[q]).astype(int)))


def test_rows_that_no_inner_product_can_take_are_named():
    rows = np.ones((4, 3), np.float32)
    bad = rows.copy()
    bad[1], bad[2] = np.nan, 1e30
    for kind in ("inner", "euclidean"):
        with pytest.raises(NonFiniteError, match=r"gallery: 2 of 4 rows .*: 1, 2"):
            evaluate_arrays(rows, bad, query_labels=np.zeros(4, int), gallery_labels=np.zeros(4, int), kind=kind)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_bracket_is_what_the_worst_and_the_best_order_of_ties_give(problem):
    found, worst, best = evaluated(problem), by_sorting(*problem, "worst"), by_sorting(*problem, "best")
    for name in MONOTONE:
        np.testing.assert_allclose(found.lowest[name], worst[name], rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(found.highest[name], best[name], rtol=1e-12, err_msg=name)


@given(problems(), st.integers(1, 45), st.integers(1, 13), st.booleans(), st.integers(1, 60_000))
@settings(max_examples=80, deadline=None)
def test_results_do_not_depend_on_how_the_work_is_cut(problem, gallery_rows, tile_queries, keep, state_bytes):
    whole = evaluated(problem)
    cut = evaluated(
        problem,
        Blocking(
            gallery_rows=gallery_rows, tile_queries=tile_queries, state_bytes=state_bytes, keep_bytes=keep * 2**20
        ),
    )
    for name in METRICS:
        np.testing.assert_array_equal(cut.values[name], whole.values[name])
    for name in MONOTONE:
        np.testing.assert_array_equal(cut.lowest[name], whole.lowest[name])
    np.testing.assert_array_equal(cut.expected_map, whole.expected_map)


@given(problems(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_row_order_changes_nothing_but_the_order_within_ties(problem, random):
    query, gallery, query_labels, gallery_labels, self_rows = problem
    order = list(range(len(gallery)))
    random.shuffle(order)
    place = np.argsort(order)
    moved = (query, gallery[order], query_labels, gallery_labels[order], np.where(self_rows < 0, -1, place[self_rows]))
    straight, shuffled = evaluated(problem), evaluated(moved)
    for name in MONOTONE:
        np.testing.assert_allclose(shuffled.lowest[name], straight.lowest[name], rtol=1e-12)
        np.testing.assert_allclose(shuffled.highest[name], straight.highest[name], rtol=1e-12)
    for name in METRICS:
        untied = ~straight.tied
        np.testing.assert_allclose(shuffled.values[name][untied], straight.values[name][untied], rtol=1e-12)
    np.testing.assert_allclose(shuffled.expected_map, straight.expected_map, rtol=1e-12)


@given(problems(), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_counts_over_parts_of_a_gallery_add(problem, cut):
    query, gallery, query_labels, gallery_labels, self_rows = problem
    query, gallery, cut = normalise(query, what="q"), normalise(gallery, what="g"), min(cut, len(gallery))
    relevance = ByLabel(query_labels, gallery_labels, self_rows)

    def counts(*parts):
        counter = RankCounter(query, relevance.positives(0, len(query)), relevance.excluded(0, len(query)))
        counter.score(0, gallery)
        for first, last in parts:
            counter.count(first, gallery[first:last])
        return counter.result()

    merged = counts((cut, len(gallery))).merge(counts((0, cut)))
    whole = counts((0, len(gallery)))
    for name in ("rows", "greater", "equal", "before"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name), err_msg=name)
    with pytest.raises(AlignmentError, match="different queries"):
        whole.merge(RankCounter(query[:0], relevance.positives(0, 0), relevance.excluded(0, 0)).result())


def test_many_rows_in_float16_and_several_threads_equal_sorting(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, 900)
    gallery = (rng.normal(size=(20, 24))[labels] + 1.5 * rng.normal(size=(900, 24))).astype(np.float16)
    gallery[450:] = gallery[:450]  # every score ties with its twin's
    problem = gallery[:60], gallery, labels[:60], labels, np.arange(60)
    expected = by_sorting(*problem)
    for keep in (0, 1 << 20):
        found = evaluated(problem, Blocking(gallery_rows=128, tile_queries=16, keep_bytes=keep))
        for name in METRICS:
            np.testing.assert_allclose(found.values[name], expected[name], rtol=1e-12, err_msg=name)
        assert found.tied.all()


def test_more_scores_in_one_place_than_a_counter_of_16_bits_holds():
    n = 80_000
    gallery = np.empty((n, 2), np.float32)
    gallery[0::2], gallery[1::2] = [1, 0.3], [1, 0.6]  # ties with an answer, and one place between two of them
    labels = np.where(np.arange(n) % 20_000, -1, 0)
    gallery[[0, 40_000]] = [1, 0.9]
    problem = np.array([[1.0, 0.0]], np.float32), gallery, np.zeros(1, int), labels, np.array([-1])
    found, expected = evaluated(problem, Blocking(gallery_rows=n)), by_sorting(*problem)
    for name in METRICS:
        np.testing.assert_allclose(found.values[name], expected[name], rtol=1e-12, err_msg=name)


def test_workers_change_nothing():
    rng = np.random.default_rng(4)
    rows, labels = rng.integers(-1, 2, (300, 5)) + 0.5, rng.integers(0, 9, 300)
    problem = rows[:40], rows, labels[:40], labels, np.arange(40)
    alone, together = evaluated(problem), evaluated(problem, Blocking(gallery_rows=64, state_bytes=2**17, workers=2))
    for name in METRICS:
        np.testing.assert_array_equal(together.values[name], alone.values[name])
        np.testing.assert_array_equal(together.lowest[name], alone.lowest[name])


def test_memory_is_an_amount_and_has_to_be_enough():
    assert [parse_memory(text) for text in ("600M", "1.5g", "4 GiB", "2kb", "100")] == [
        600 * 2**20, 1536 * 2**20, 4 * 2**30, 2048, 100,
    ]  # fmt: skip
    for text in ("", "much", "0", "-1G", "1X"):
        with pytest.raises(UsageError, match="not an amount of memory"):
            parse_memory(text)
    with pytest.raises(UsageError, match=r"10 MiB are too little(.|\n)*at least --max-memory \d+M"):
        Blocking.within(10 * 2**20, rows=10, width=256)
    small = Blocking.within(300 * 2**20, rows=10**6, width=256)
    assert (small.keep_bytes, small.state_bytes < 300 * 2**20) == (0, True)
    assert Blocking.within(300 * 2**20, rows=10**5, width=256).keep_bytes == 4 * 256 * 10**5


def test_scores_closer_than_float32_can_tell_are_ordered_by_the_canonical_score():
    """Neighbours in the last bit of a component: the GEMM confuses them, their order is still the exact one."""
    rng = np.random.default_rng(1)
    base = rng.normal(size=64).astype(np.float32)
    gallery = np.repeat(base[None], 300, axis=0)
    gallery[np.arange(300), rng.integers(0, 64, 300)] *= np.float32(1 + 2e-7)
    query = (base + 0.1 * rng.normal(size=(4, 64))).astype(np.float32)
    problem = query, gallery, np.zeros(4, int), rng.integers(0, 2, 300), np.full(4, -1)
    found, expected = evaluated(problem), by_sorting(*problem)
    np.testing.assert_allclose(found.values["map"], expected["map"], rtol=1e-12)


def test_a_product_that_is_less_precise_than_float32_is_refused(monkeypatch):
    rng = np.random.default_rng(2)
    rows = normalise(rng.normal(size=(8, 16)), what="rows")
    relevance = ByLabel(np.zeros(8, int), np.zeros(8, int))
    counter = RankCounter(rows, relevance.positives(0, 8), relevance.excluded(0, 8))
    counter.score(0, rows)
    product = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, out: product(a.astype(np.float16), b.astype(np.float16), out=out))
    with pytest.raises(Exception, match="ranks would not be exact"):
        counter.count(0, rows)


def test_shapes_that_do_not_fit_are_refused():
    rows = np.ones((4, 3), np.float32)
    labels = np.zeros(4, int)
    with pytest.raises(AlignmentError, match="width 2, gallery rows 3"):
        evaluate_arrays(rows[:, :2], rows, query_labels=labels, gallery_labels=labels)
    with pytest.raises(AlignmentError, match="labels for 4 queries and 3"):
        evaluate_arrays(rows, rows, query_labels=labels, gallery_labels=labels[:3])
    with pytest.raises(AlignmentError, match="a self row is 0 to 4"):
        evaluate_arrays(rows, rows, query_labels=labels, gallery_labels=labels, self_rows=np.array([0, 1, 2, 4]))


def test_an_empty_problem_has_no_blocks():
    empty = ArrayVectors(np.zeros((0, 3), np.float32))
    relevance = ByLabel(np.zeros(0, int), np.zeros(0, int))
    assert list(ranked_blocks(empty, empty, relevance)) == []


def test_progress_adds_up_to_what_was_announced():
    class Listener:
        total = done = 0

        def start(self, task, total, unit, *, done=0):
            self.task, self.total, self.unit, self.done = task, total, unit, done

        def advance(self, n):
            self.done += n

        def note(self, message): ...

    rng, listener = np.random.default_rng(0), Listener()
    rows, labels = ArrayVectors(rng.normal(size=(50, 4))), np.zeros(50, int)
    blocking = Blocking(gallery_rows=16, state_bytes=40_000)
    evaluate_vectors(
        rows, rows, ByLabel(labels, labels), ("map",), blocking=blocking, progress=listener, task="old/old"
    )
    assert (listener.task, listener.unit) == ("old/old", "rows")
    assert listener.done == listener.total > 50
