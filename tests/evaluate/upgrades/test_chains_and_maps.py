"""Chains of generations, maps on either side, and several runs, in a real store."""

import json

import numpy as np
import pytest

from featstore.errors import AlignmentError, SpaceMismatchError, UsageError
from featstore.evaluate import EvalRequest, EvalResult, Run, bootstrap_means, evaluate, evaluate_runs
from featstore.maps import apply_map
from tests.evaluate.upgrades.shop import CLASSES, METRICS, N, expected


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
