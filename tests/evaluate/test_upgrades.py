"""Chains of generations, maps on either side, and several runs, in a real store."""

import json

import numpy as np
import pytest
import torch

from featstore.errors import AlignmentError, NotFoundError, SpaceMismatchError, UnknownNameError, UsageError
from featstore.evaluate import EvalRequest, EvalResult, Run, bootstrap_means, evaluate, evaluate_arrays, evaluate_runs
from featstore.evaluate.orders import k_center, prototype_distances, row_orders
from featstore.evaluate.vectors import ArrayVectors
from featstore.maps import LinearConfig, apply_map, build_map, save_map
from featstore.spaces import Space
from tests.evaluate.reference import scores as canonical_scores
from tests.evaluate.test_evaluate import add_set
from tests.store_factory import labelled_store

N, CLASSES, WIDTH = 300, 10, 12
METRICS = ("map", "recall@1", "recall@5")


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    centres, noise = rng.normal(size=(CLASSES, WIDTH)), rng.normal(size=(N, WIDTH))
    rotation = np.linalg.qr(rng.normal(size=(16, WIDTH)))[0]
    found = {
        name: (centres[labels] + spread * noise + 0.1 * rng.normal(size=(N, WIDTH))).astype(np.float32)
        for name, spread in (("a", 2.4), ("b", 1.8), ("c", 1.2))
    }
    found["wide"] = (found["c"] @ rotation.T).astype(np.float32)
    found["twin"] = found["c"][:, ::-1].copy()
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory, features):
    store = labelled_store(tmp_path_factory.mktemp("store"), "shop", np.arange(N) % CLASSES)
    space = Space.named("shared", WIDTH)
    for name in "abc":
        add_set(store, "shop", name, features[name], space=space)
    add_set(store, "shop", "wide", features["wide"], space=Space.named("wide", 16))
    return store


@pytest.fixture(scope="module")
def runs(tmp_path_factory, store, features):
    """Run folders of maps fitted by least squares: wide → shared, shared → wide, and within shared."""
    folder = tmp_path_factory.mktemp("runs")
    spaces = {name: store.features(f"shop/{name}").space for name in ("a", "wide")}
    for name, source, target in (("down", "wide", "a"), ("up", "a", "wide"), ("flat", "a", "a")):
        inside, outside = (features["wide" if side == "wide" else "c"] for side in (source, target))
        module = build_map(LinearConfig(), inside.shape[1], outside.shape[1])
        with torch.no_grad():
            weight = np.linalg.lstsq(inside, outside, rcond=None)[0].T
            module.body.weight.copy_(torch.from_numpy(weight))
            module.body.bias.zero_()
        declared = (spaces[target].digest,)
        save_map(
            folder / name,
            module,
            config=LinearConfig(),
            input_space=spaces[source],
            name=name,
            compatible_with=declared,
            training={},
        )
    return folder


def expected(query, gallery, metrics=METRICS):
    labels = np.arange(N) % CLASSES
    return evaluate_arrays(
        query, gallery, query_labels=labels, gallery_labels=labels, self_rows=np.arange(N), metrics=metrics
    )


def test_every_newer_generation_searches_every_older_gallery(store, features):
    sets = ("shop/a", "shop/b", "shop/c")
    result = evaluate(store, EvalRequest(generations=sets, metrics=METRICS, bootstrap=300))
    assert [cell.role for cell in result.cells] == ["v1/v1", "v2/v1", "v2/v2", "v3/v1", "v3/v2", "v3/v3"]
    matrix = np.zeros((3, 3))
    for row, newer in enumerate("abc"):
        for column, older in enumerate("abc"[: row + 1]):
            cell = result.cell(f"v{row + 1}/v{column + 1}")
            assert (cell.query, cell.gallery) == (f"shop/{newer}@1", f"shop/{older}@1")
            found = expected(features[newer], features[older])
            assert cell.metrics == {metric: found.mean(metric) for metric in METRICS}
            matrix[row, column] = cell.metrics["map"]
    chain = result.chain
    assert chain.matrix["map"] == [list(matrix[row, : row + 1]) for row in range(3)]
    below = [(i, j) for i in range(3) for j in range(i)]
    assert chain.ac["map"].value == pytest.approx(np.mean([matrix[i, j] > matrix[j, j] for i, j in below]))
    assert chain.bc["map"].value == pytest.approx(np.mean([matrix[2, i] - matrix[i, i] for i in range(2)]))
    assert chain.fc["map"].value == pytest.approx(np.mean([matrix[i, i - 1] - matrix[i, i] for i in (1, 2)]))
    assert chain.am["map"].value == pytest.approx(np.mean([matrix[i, j] for i in range(3) for j in range(i + 1)]))
    assert all(found.low <= found.value <= found.high for found in (chain.bc["map"], chain.am["map"]))
    assert list(result.criterion) == ["v2/v1", "v3/v1", "v3/v2"]
    assert result.subject == "v3/v1"
    verdicts = [found["map"] for found in result.criterion.values()]
    assert result.compatible["map"] is (False if False in verdicts else None if None in verdicts else True)
    assert "of 3 cross-tests pass" in result.verdict
    assert result.gate("v3/v1.map > v1/v1.map").passed


def test_a_chain_with_a_reference_has_a_gain_of_the_newest_on_the_oldest(store):
    result = evaluate(store, EvalRequest(generations=("shop/a", "shop/b"), reference="shop/c", bootstrap=200))
    cells = {cell.role: cell.metrics["map"] for cell in result.cells}
    gain = (cells["v2/v1"] - cells["v1/v1"]) / (cells["reference"] - cells["v1/v1"])
    assert result.update_gain["map"] == pytest.approx(gain)
    assert result.p_up["map"].value < 0.5  # the reference is better than v2
    up, comp = result.p_up["map"].value, result.p_comp["map"].value
    assert result.p_1["map"].value == pytest.approx(2 * up * comp / (up + comp))
    low, high = result.update_gain_interval["map"]
    assert low < gain < high


def test_flips_and_changes_are_those_of_the_queries(store, features):
    result = evaluate(store, EvalRequest(old="shop/a", new="shop/c", metrics=METRICS, bootstrap=200))
    old, cross = expected(features["a"], features["a"]), expected(features["c"], features["a"])
    for metric in ("recall@1", "recall@5"):
        before, after = old.values[metric] == 1, cross.values[metric] == 1
        found = result.flips["new/old"][metric]
        assert found.before == "old/old"
        assert found.nfr.value == pytest.approx((before & ~after).mean())
        assert found.pfr.value == pytest.approx((~before & after).mean())
        assert found.churn.value == pytest.approx((before != after).mean())
        assert found.relative_nfr.value == pytest.approx((before & ~after).mean() / (before.mean() * (~after).mean()))
        assert found.nfr.low <= found.nfr.value <= found.nfr.high
    assert list(result.flips) == ["new/old", "new/new"]
    change = cross.values["map"] - old.values["map"]
    spread = result.changes
    assert (spread.better, spread.worse) == ((change > 0).sum(), (change < 0).sum())
    assert spread.better + spread.worse + spread.equal == N
    assert spread.quantiles["5%"] == pytest.approx(np.percentile(change, 5))
    for item in spread.classes:
        rows = np.arange(N) % CLASSES == int(item.name.removeprefix("class "))
        assert item.queries == rows.sum()
        assert item.after - item.before == pytest.approx(change[rows].mean())
    nfr = result.flips["new/old"]["recall@1"].nfr.value
    assert result.gate("new/old.nfr@1 < 0.9").passed
    assert result.gate(f"new/old.nfr@1 <= {nfr:.6f}1", point=True).passed
    again = EvalResult.model_validate_json(result.to_json())
    assert again.model_dump() == result.model_dump()
    assert json.loads(result.to_json())["flips"]["new/old"]["recall@1"]["nfr"]["value"] == nfr


def test_a_map_on_the_queries_is_the_mapped_set(store, runs):
    request = EvalRequest(old="shop/a", new="shop/wide", query_map=runs / "down", metrics=METRICS, bootstrap=100)
    result = evaluate(store, request)
    assert [cell.role for cell in result.cells] == ["old/old", "mapped-new/old", "new/new"]
    apply_map(store, runs / "down", "shop/wide", "shop/mapped")
    stored = evaluate(store, EvalRequest(old="shop/a", new="shop/mapped", metrics=METRICS, bootstrap=100))
    assert result.cell("mapped-new/old").metrics == pytest.approx(stored.cell("new/old").metrics, abs=1e-9)
    assert result.cell("mapped-new/old").query_map == str(runs / "down")
    assert result.subject == "mapped-new/old"
    assert result.compatible == stored.compatible
    assert "new/old" in result.left_out
    assert "width 16" in result.left_out["new/old"]
    assert result.chain is None
    assert result.gate("mapped-new/old.map > 0").passed


def test_a_map_on_the_gallery_is_the_mapped_set(store, runs):
    request = EvalRequest(old="shop/c", new="shop/wide", gallery_map=runs / "up", metrics=METRICS, bootstrap=100)
    result = evaluate(store, request)
    assert [cell.role for cell in result.cells] == ["old/old", "new/mapped-old", "new/new"]
    apply_map(store, runs / "up", "shop/c", "shop/lifted")
    stored = evaluate(store, EvalRequest(query="shop/wide", gallery="shop/lifted", metrics=METRICS, bootstrap=0))
    assert result.cell("new/mapped-old").metrics == pytest.approx(stored.cells[0].metrics, abs=1e-9)


def test_a_map_between_comparable_sets_stands_beside_new_old(store, runs):
    request = EvalRequest(old="shop/a", new="shop/c", gallery_map=runs / "flat", bootstrap=100)
    result = evaluate(store, request)
    assert [cell.role for cell in result.cells] == ["old/old", "new/old", "new/mapped-old", "new/new"]
    assert list(result.criterion) == ["new/old", "new/mapped-old"]
    assert result.subject == "new/old"
    assert result.compatible == result.criterion["new/old"]
    assert result.left_out == {}


def test_maps_that_lead_elsewhere_are_refused(store, runs):
    with pytest.raises(AlignmentError, match=r"mapped by .*up width 16"):
        evaluate(store, EvalRequest(old="shop/a", new="shop/c", gallery_map=runs / "up"))
    with pytest.raises(SpaceMismatchError, match="input of the map"):
        evaluate(store, EvalRequest(old="shop/a", new="shop/wide", query_map=runs / "up"))


def test_several_runs_are_averaged_and_resampled_together(store, features):
    requests = [EvalRequest(old="shop/a", new=f"shop/{name}", metrics=METRICS, bootstrap=400) for name in "bc"]
    result = evaluate_runs(store, requests)
    single = [evaluate(store, request) for request in requests]
    for role in ("old/old", "new/old", "new/new"):
        mean = np.mean([run.cell(role).metrics["map"] for run in single])
        assert result.cell(role).metrics["map"] == pytest.approx(mean)
    assert [run.metrics["new/old"]["map"] for run in result.runs] == [
        run.cell("new/old").metrics["map"] for run in single
    ]
    assert result.runs[1].sets["new/old"] == ("shop/c@1", "shop/a@1")
    values = [expected(features[name], features["a"]).values["map"][:, None] for name in "bc"]
    means = bootstrap_means([Run(value, np.arange(N) % CLASSES) for value in values], resamples=400)
    low, high = result.cell("new/old").interval["map"]
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    spread = [run.cell("new/old").interval["map"] for run in single]
    assert high - low > max(stop - start for start, stop in spread)  # the runs differ, and the interval says so
    with pytest.raises(UsageError, match="same roles and metrics"):
        evaluate_runs(store, [requests[0], EvalRequest(old="shop/a", metrics=METRICS)])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (EvalRequest(generations=("shop/a",)), "no chain"),
        (EvalRequest(generations=("shop/a", "shop/b"), old="shop/a"), "does not go with --old"),
        (EvalRequest(generations=("shop/a", "shop/b"), query="shop/a"), "do not go with --generations"),
        (EvalRequest(old="shop/a", query_map="runs/x"), "needs --old and --new"),
    ],
)
def test_forms_that_do_not_go_together_are_refused(store, request_, message):
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(store, request_)
    assert caught.value.hint


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
