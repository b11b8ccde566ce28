"""Exact search against sorting everything; indexes that are tuned, found again, and refused when they no longer fit."""

import json

import numpy as np
import pytest

from featstore.errors import AlignmentError, CorruptStoreError, NotFoundError, SpaceMismatchError, UsageError
from featstore.evaluate.vectors import ArrayVectors
from featstore.search import build_index, exact_top_k, queries_from_file, queries_from_set, search
from featstore.spaces import Space
from featstore.store import NewRows, collect_garbage, verify
from featstore_cli.main import run
from tests.evaluate.reference import scores as canonical_scores
from tests.store_factory import add_set, labelled_store

N, WIDTH = 400, 16
MUCH = 1 << 30


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(N, WIDTH)).astype(np.float32)
    return rows, (rows + 0.3 * rng.normal(size=rows.shape)).astype(np.float32)


@pytest.fixture
def store(tmp_path, features):
    store = labelled_store(tmp_path / "store", "shop", np.arange(N) % 7, columns={"part": ["a", "b"] * (N // 2)})
    space = Space.named("shared", WIDTH)
    add_set(store, "shop", "old", features[0], space=space, failed=(3,))
    add_set(store, "shop", "new", features[1], space=space)
    add_set(store, "shop", "other", features[1])
    return store


def nearest(query, gallery, k):
    score = canonical_scores(query, gallery)
    order = np.argsort(-score, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(score, order, axis=1)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(("n_gallery", "k"), [(1, 1), (5, 8), (30, 10), (500, 10)])
def test_exact_search_is_a_stable_sort_by_canonical_score(monkeypatch, coarse, n_gallery, k):
    """Coarse rows have dozens of equal scores, more than the candidates that faiss is asked for."""
    monkeypatch.setattr("featstore.search.exact._BLOCK", 64)
    monkeypatch.setattr("featstore.search.exact._QUERIES", 7)
    rng = np.random.default_rng(1)
    shape = (3,) if coarse else (WIDTH,)
    rows = [rng.integers(1, 3, (n, *shape)) if coarse else rng.normal(size=(n, *shape)) for n in (20, n_gallery)]
    query, gallery = (side.astype(np.float32) for side in rows)
    found = exact_top_k(ArrayVectors(query), ArrayVectors(gallery), k)
    order, score = nearest(query, gallery, k)
    inside = min(k, n_gallery)
    np.testing.assert_array_equal(found.rows[:, :inside], order)
    np.testing.assert_array_equal(found.scores[:, :inside], score)
    assert (found.rows[:, inside:] == -1).all()
    assert np.isnan(found.scores[:, inside:]).all()


def test_a_set_searches_another_one(store, features):
    hits = search(store, "shop/old", queries_from_set(store, "shop/new", ["part=b"]), 4)
    queries, gallery = np.arange(1, N, 2), np.delete(np.arange(N), 3)
    order, score = nearest(features[1][queries], features[0][gallery], 4)
    assert hits.query_ids == [f"{row}.jpg" for row in queries]
    assert hits.ids == [[f"{gallery[place]}.jpg" for place in row] for row in order]
    assert hits.labels[0] == [f"class {gallery[place] % 7}" for place in order[0]]
    np.testing.assert_array_equal(hits.scores, score)
    assert hits.index is None
    within = search(store, "shop/old", queries_from_set(store, "shop/old"), 3, where=["part=a"], without_self=True)
    assert all(id_ not in near and len(near) == 3 for id_, near in zip(within.query_ids, within.ids, strict=True))
    assert all(int(near.partition(".")[0]) % 2 == 0 for found in within.ids for near in found)


def test_spaces_and_widths_are_checked(store, features, tmp_path):
    with pytest.raises(SpaceMismatchError):
        search(store, "shop/old", queries_from_set(store, "shop/other"))
    assert len(search(store, "shop/old", queries_from_set(store, "shop/other"), 2, allow_unrelated=True).ids) == N
    np.savez(tmp_path / "q.npz", features=features[0][:3], ids=["x", "y", "z"])
    with pytest.raises(UsageError, match="nobody said which space"):
        search(store, "shop/old", queries_from_file(tmp_path / "q.npz"))
    hits = search(store, "shop/old", queries_from_file(tmp_path / "q.npz", space="shared"), 1)
    assert (hits.query_ids, hits.ids) == (["x", "y", "z"], [["0.jpg"], ["1.jpg"], ["2.jpg"]])
    with pytest.raises(SpaceMismatchError):
        search(store, "shop/old", queries_from_file(tmp_path / "q.npz", space="another"))
    np.save(tmp_path / "narrow.npy", features[0][:3, :4])
    with pytest.raises(AlignmentError, match="width 4"):
        search(store, "shop/old", queries_from_file(tmp_path / "narrow.npy", space="shared"))
    with pytest.raises(UsageError, match="at least 1"):
        search(store, "shop/old", queries_from_set(store, "shop/new"), 0)
    with pytest.raises(UsageError, match="at least 1"):
        exact_top_k(ArrayVectors(features[0]), ArrayVectors(features[0]), 0)


def test_a_small_set_gets_a_flat_index_that_finds_everything(store):
    report = build_index(store, "shop/old", max_memory=MUCH)
    assert (report.record.factory, report.record.recall, report.record.rows) == ("Flat", 1.0, N - 1)
    queries = queries_from_set(store, "shop/new")
    through, exact = search(store, "shop/old", queries, 7), search(store, "shop/old", queries, 7, exact=True)
    assert through.index == report.record
    assert exact.index is None
    assert (through.ids, through.scores) == (exact.ids, exact.scores)
    with pytest.raises(UsageError, match=r"fits into 0 MiB"):
        build_index(store, "shop/old", max_memory=1000)


@pytest.mark.parametrize("memory", [MUCH, 20_000])
def test_larger_sets_get_codes_that_are_tuned_until_they_find_enough(store, features, memory, monkeypatch):
    monkeypatch.setattr("featstore.search.build._FLAT_ROWS", 100)
    report = build_index(store, "shop/old", max_memory=memory, min_recall=0.9, query="shop/new")
    record = report.record
    assert record.factory == ("PQ8x4fs,RFlat" if memory == MUCH else "PQ8x4fs")
    assert record.bytes <= memory
    queries = queries_from_set(store, "shop/new")
    hits = search(store, "shop/old", queries, record.k)
    truth = search(store, "shop/old", queries, record.k, exact=True)
    found = np.mean([len(set(a) & set(b)) / record.k for a, b in zip(hits.ids, truth.ids, strict=True)])
    assert found == pytest.approx(record.recall, abs=0.04)
    assert found >= 0.88
    score = canonical_scores(features[1], features[0])
    for query, (ids, scores) in enumerate(zip(hits.ids, hits.scores, strict=True)):
        assert scores == [score[query, int(id_.partition(".")[0])] for id_ in ids]  # exact, though the search is not
        assert scores == sorted(scores, reverse=True)


def test_stale_and_damaged_indexes_are_refused_with_the_command_that_rebuilds(store, features):
    build_index(store, "shop/old", max_memory=MUCH)
    first = build_index(store, "shop/old", max_memory=MUCH)  # replaces the one before
    folder = store.files.root / "features" / "shop" / "old" / "indexes"
    assert [path.name for path in sorted(folder.glob("*/*"))] == ["index.faiss", "index.json"]
    assert verify(store, full=True).problems == []
    queries = queries_from_set(store, "shop/new")
    [path] = folder.glob("*/index.faiss")
    sound = path.read_bytes()
    for damaged in (sound[:-4], sound[:99] + bytes([sound[99] ^ 1]) + sound[100:]):
        path.chmod(0o644)
        path.write_bytes(damaged)
        with pytest.raises(CorruptStoreError) as caught:
            search(store, "shop/old", queries)
        assert "featstore index build shop/old" in caught.value.hint
    path.write_bytes(sound)
    assert search(store, "shop/old", queries).index == first.record
    store.append_rows("shop", NewRows(["later.jpg"], ["class 1"]))
    add_set(store, "shop", "old", np.concatenate([features[0], features[0][:1]]), space=Space.named("shared", WIDTH))
    with pytest.raises(NotFoundError, match=r"built from shop/old@1, not from shop/old@2") as caught:
        search(store, "shop/old", queries)
    assert "featstore index build shop/old" in caught.value.hint
    assert search(store, "shop/old", queries, exact=True).index is None
    assert search(store, "shop/old@1", queries).index == first.record
    report = collect_garbage(store)
    assert [item.where for item in report.garbage] == [f"features/shop/old/indexes/{path.parent.name}"]
    assert search(store, "shop/old", queries).index is None
    built = build_index(store, "shop/old", max_memory=MUCH).record
    assert collect_garbage(store).garbage == ()
    assert search(store, "shop/old", queries).index == built


def test_what_cannot_be_found_is_said(store, monkeypatch):
    monkeypatch.setattr("featstore.search.build._FLAT_ROWS", 100)
    monkeypatch.setattr("featstore.search.build._TRIED", (1,))
    monkeypatch.setattr("featstore.search.tuned.SPARE", 0)
    with pytest.raises(UsageError, match=r"finds 100% of the 10 nearest rows; the best \d"):
        build_index(store, "shop/old", max_memory=10_000, min_recall=1.0)
    with pytest.raises(UsageError, match=r"recall of 1\.5"):
        build_index(store, "shop/old", max_memory=MUCH, min_recall=1.5)
    with pytest.raises(SpaceMismatchError):
        build_index(store, "shop/old", max_memory=MUCH, query="shop/other")


def test_the_commands(store, tmp_path, features, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATSTORE_STORE", str(store.files.root))
    assert run(["index", "build", "shop/old", "--min-recall", "90%", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["record"]["factory"] == "Flat"
    assert run(["search", "shop/old", "--query", "shop/new", "--k", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["results"]) == N
    assert [len(item["neighbours"]) for item in found["results"]] == [2] * N
    assert found["index"]["factory"] == "Flat"
    np.savez("q.npz", features=features[0][:2])
    assert run(["search", "shop/old", "--query", "q.npz", "--space", "shared", "--exact"]) == 0
    shown = capsys.readouterr().out
    assert "1.0000  0.jpg  class 0" in shown
    assert "exact" in shown
    assert run(["search", "shop/old", "--query", "q.npz", "--query-where", "part=a"]) == 2
    assert run(["search", "shop/old", "--query", "shop/nothing"]) == 2
