"""Every point of a backfill against the mixed gallery it stands for, and the orders in which rows are refreshed."""

import numpy as np
import pytest

from featstore.errors import NotFoundError, UnknownNameError, UsageError
from featstore.evaluate import EvalRequest, EvalResult, evaluate
from featstore.evaluate.orders import k_center, prototype_distances, row_orders
from featstore.evaluate.vectors import ArrayVectors
from tests.evaluate.upgrades.shop import CLASSES, METRICS, N, expected


def test_every_point_of_a_backfill_is_the_mixed_gallery(store, features):
    """The ends are measured as mixed galleries too: they must be the matrix cells."""
    order = np.random.default_rng(5).permutation(N)
    (path := store.files.root.parent / "order.txt").write_text("\n".join(f"{row}.jpg" for row in order[:100]))
    first = order[:100].tolist()
    order = np.array([*first, *(row for row in range(N) if row not in set(first))])
    request = EvalRequest(
        old="shop/a", new="shop/c", metrics=METRICS, bootstrap=100, backfill=(f"@{path}",), backfill_steps=7
    )
    result = evaluate(store, request)
    [curve] = result.backfill
    assert (curve.start, curve.end) == ("new/old", "new/new")
    assert curve.fractions == pytest.approx([step / 7 for step in range(8)])
    points = []
    for step in range(8):
        gallery = features["a"].copy()
        fresh = order[: step * N // 7]
        gallery[fresh] = features["c"][fresh]
        points.append(expected(features["c"], gallery))
    before = expected(features["a"], features["a"])
    for metric in METRICS:
        values = [found.mean(metric) for found in points]
        assert [point.value for point in curve.metrics[metric]] == pytest.approx(values, abs=1e-12)
        assert curve.area_trapezoid[metric].value == pytest.approx(np.trapezoid(values, dx=1 / 7))
        assert curve.area_mean[metric].value == pytest.approx(np.mean(values))
        assert curve.falls[metric] == int((np.diff(values) < -1e-12).sum())
        assert result.cell("new/old").metrics[metric] == points[0].mean(metric)
        assert result.cell("new/new").metrics[metric] == points[-1].mean(metric)
    nfr = [(before.values["recall@1"] * (1 - found.values["recall@1"])).mean() for found in points]
    assert [point.value for point in curve.nfr["recall@1"]] == pytest.approx(nfr)


def test_orders_of_a_backfill(store):
    dataset = store.add_columns("shop", {"popularity": np.where(np.arange(N) % 7, np.arange(N) % 5, np.nan)})
    rows = np.arange(1, N, 2)
    popularity = np.where(rows % 7, rows % 5, np.nan)
    [ascending] = row_orders("popularity", dataset, rows)
    [descending] = row_orders("-popularity", dataset, rows)
    counts = int(np.isfinite(popularity).sum())
    for order, sign in ((ascending, 1), (descending, -1)):
        assert sorted(order) == list(range(len(rows)))
        assert (np.diff(sign * popularity[order[:counts]]) >= 0).all()
        assert np.isnan(popularity[order[counts:]]).all()
    [by_class] = row_orders("label", dataset, rows)
    names = [f"class {row % CLASSES}" for row in rows]
    assert [names[place] for place in by_class] == sorted(names)
    assert row_orders("row", dataset, rows)[0].tolist() == list(range(len(rows)))
    shuffled = row_orders("random", dataset, rows, seed=1)
    assert len({tuple(order.tolist()) for order in shuffled}) == 3
    np.testing.assert_array_equal(shuffled, row_orders("random", dataset, rows, seed=1))
    with pytest.raises(UnknownNameError, match="order of a backfill"):
        row_orders("popularty", dataset, rows)
    with pytest.raises(NotFoundError):
        row_orders("@nowhere.txt", dataset, rows)


def test_a_random_backfill_is_the_mean_of_its_orders(store, features):
    request = EvalRequest(old="shop/a", new="shop/c", bootstrap=50, backfill=("random", "label"), backfill_steps=2)
    result = evaluate(store, request)
    assert [curve.order for curve in result.backfill] == ["random", "label"]
    halves = []
    for order in row_orders("random", store.dataset("shop"), np.arange(N)):
        gallery = features["a"].copy()
        gallery[order[: N // 2]] = features["c"][order[: N // 2]]
        halves.append(expected(features["c"], gallery).mean("map"))
    assert result.backfill[0].metrics["map"][1].value == pytest.approx(np.mean(halves))
    again = EvalResult.model_validate_json(result.to_json())
    assert again.model_dump() == result.model_dump()


def test_where_rows_cannot_be_mixed_there_is_no_curve_but_a_reason(store, runs):
    mapped = EvalRequest(old="shop/a", new="shop/wide", query_map=runs / "down", bootstrap=0, backfill=("random",))
    result = evaluate(store, mapped)
    assert result.backfill == []
    assert "featstore apply" in result.left_out["backfill"]
    lifted = EvalRequest(
        old="shop/a", new="shop/wide", gallery_map=runs / "up", bootstrap=50, backfill=("row",), backfill_steps=1
    )
    [curve] = evaluate(store, lifted).backfill
    assert (curve.start, curve.end, len(curve.fractions)) == ("new/mapped-old", "new/new", 2)


def test_two_indexes_answer_each_row_by_its_own_model(store, features):
    """A few-line reference: every gallery row is scored by the model that made it; no map, and widths may differ."""
    order = np.random.default_rng(7).permutation(N)
    (path := store.files.root.parent / "two.txt").write_text("\n".join(f"{row}.jpg" for row in order))
    request = EvalRequest(
        old="shop/a", new="shop/wide", metrics=METRICS, bootstrap=50, backfill=(f"@{path}",), backfill_steps=4,
        two_index=True,
    )  # fmt: skip
    result = evaluate(store, request)
    [curve] = result.backfill
    assert (curve.serving, curve.start, curve.end) == ("two indexes", "old/old", "new/new")
    assert "new/old" in result.left_out
    old, new = (features[name] / np.linalg.norm(features[name], axis=1, keepdims=True) for name in ("a", "wide"))
    labels = np.arange(N) % CLASSES
    for step in range(5):
        refreshed = np.isin(np.arange(N), order[: step * N // 4])
        scores = np.where(refreshed, new.astype(np.float64) @ new.T, old.astype(np.float64) @ old.T)
        np.fill_diagonal(scores, -np.inf)
        first = labels[scores.argmax(axis=1)] == labels
        assert curve.metrics["recall@1"][step].value == pytest.approx(first.mean()), step
    for metric in METRICS:
        assert curve.metrics[metric][0].value == pytest.approx(result.cell("old/old").metrics[metric])
        assert curve.metrics[metric][-1].value == pytest.approx(result.cell("new/new").metrics[metric])


def test_orders_that_look_at_the_gallery(store, features):
    dataset, rows = store.dataset("shop"), np.arange(N)
    vectors = ArrayVectors(features["a"])
    unit = features["a"] / np.linalg.norm(features["a"], axis=1, keepdims=True)
    [centres] = row_orders("k-center", dataset, rows, vectors)
    assert sorted(centres) == list(range(N))
    for place in range(1, 20):
        nearest = (unit @ unit[centres[:place]].T).max(axis=1)
        assert nearest[centres[place]] == pytest.approx(nearest.min(), abs=1e-6)
    assert sorted(k_center(unit, centres=5)) == list(range(N))
    labels = dataset.labels.codes[rows]
    distances = np.empty(N)
    for code in np.unique(labels):
        prototype = unit[labels == code].mean(axis=0)
        distances[labels == code] = 1 - unit[labels == code] @ prototype / np.linalg.norm(prototype)
    [far], [near] = (row_orders(f"{sign}prototype-distance", dataset, rows, vectors) for sign in ("", "-"))
    assert np.all(np.diff(distances[near]) >= -1e-6)
    assert np.all(np.diff(distances[far]) <= 1e-6)
    with pytest.raises(UsageError, match="need labels"):
        prototype_distances(unit, np.full(N, -1))
