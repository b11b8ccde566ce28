"""Evaluation of feature sets in a real store."""

import json
import subprocess
import sys

import numpy as np
import pytest

from featstore.errors import AlignmentError, NonFiniteError, SpaceMismatchError, UnknownNameError, UsageError
from featstore.evaluate import EvalRequest, EvalResult, evaluate, evaluate_arrays
from featstore.spaces import Space
from featstore.store import NewRows, Store
from tests.store_factory import add_set

N, CLASSES, WIDTH = 240, 12, 16


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), N // CLASSES)
    centres = rng.normal(size=(CLASSES, WIDTH))
    noise = rng.normal(size=(N, WIDTH))
    return {
        "labels": labels,
        "old": (centres[labels] + 2.5 * noise).astype(np.float32),
        "better": (centres[labels] + 1.2 * noise).astype(np.float16),
        "best": (rng.normal(size=(CLASSES, 24))[labels] + 0.8 * rng.normal(size=(N, 24))).astype(np.float32),
        "other": rng.normal(size=(N, WIDTH)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory, data):
    store = Store.init(tmp_path_factory.mktemp("store"))
    names = [f"class {label}" if row % 40 else None for row, label in enumerate(data["labels"])]
    splits = ["train" if row % 2 else "test" for row in range(N)]
    store.create_dataset("cars", NewRows([f"{row}.jpg" for row in range(N)], names, {"split": splits}))
    old = add_set(store, "cars", "old", data["old"], failed=(5, 100))
    declared = Space(
        name="better", width=WIDTH, identity={"kind": "map", "map": "1"}, compatible_with=(old.space.digest,)
    )
    add_set(store, "cars", "better", data["better"], space=declared, failed=(7,))
    add_set(store, "cars", "best", data["best"])
    add_set(store, "cars", "other", data["other"])
    return store


def used_rows():
    rows = np.arange(N)
    return rows[(rows % 40 != 0) & ~np.isin(rows, [5, 7, 100])]


def test_every_cell_equals_the_arrays_it_is_made_of(store, data):
    result = evaluate(store, EvalRequest(old="cars/old", new="cars/better", reference="cars/best"))
    rows = used_rows()
    sets = {"old/old": ("old", "old"), "new/old": ("better", "old"), "new/new": ("better", "better")}
    sets["reference"] = ("best", "best")
    assert [cell.role for cell in result.cells] == list(sets)
    for cell in result.cells:
        query, gallery = sets[cell.role]
        labels = data["labels"][rows]
        expected = evaluate_arrays(
            data[query][rows],
            data[gallery][rows],
            query_labels=labels,
            gallery_labels=labels,
            self_rows=np.arange(len(rows)),
            metrics=("map", "map@r", "recall@1", "recall@5", "recall@10"),
        )
        assert (cell.query, cell.gallery) == (f"cars/{query}@1", f"cars/{gallery}@1")
        assert cell.n_queries == len(rows)
        for metric, values in expected.values.items():
            assert cell.metrics[metric] == values.mean()
            low, high = cell.interval[metric]
            assert low <= cell.metrics[metric] <= high
    counts = result.protocol.queries
    assert (counts.selected, counts.without_feature, counts.unlabelled, counts.used) == (N, 3, 6, len(rows))
    assert (result.protocol.kind, result.protocol.in_gallery) == ("leave-one-out", len(rows))


def test_the_verdict_follows_the_paired_interval(store):
    result = evaluate(store, EvalRequest(old="cars/old", new="cars/better", reference="cars/best"))
    difference = result.differences["new/old - old/old"]["map"]
    metrics = {cell.role: cell.metrics["map"] for cell in result.cells}
    assert difference.value == pytest.approx(metrics["new/old"] - metrics["old/old"])
    assert difference.low > 0
    assert result.compatible["map"] is True
    assert result.verdict.startswith("compatible: map of new/old ")
    gain = difference.value / result.differences["reference - old/old"]["map"].value
    assert result.update_gain["map"] == pytest.approx(gain)
    assert result.update_gain_reason["map"] is None
    assert result.gate("new/old.map > old/old.map").passed
    assert not result.gate("new/old.map > new/new.map").passed
    backwards = evaluate(store, EvalRequest(old="cars/better", new="cars/old"))
    assert backwards.compatible["map"] is False
    assert backwards.update_gain_reason["map"] == "no reference set was given"
    same = evaluate(store, EvalRequest(old="cars/old", new="cars/old"))
    assert same.compatible["map"] is False  # a tie is not compatible: the criterion is strict
    assert same.differences["new/old - old/old"]["map"].value == 0


def test_the_json_has_stable_keys_and_reads_back(store):
    result = evaluate(store, EvalRequest(old="cars/old", new="cars/better", metrics=("recall@1",), bootstrap=50))
    found = json.loads(result.to_json())
    assert list(found) == [
        "protocol", "cells", "differences", "compatible", "update_gain", "update_gain_reason", "headline", "verdict",
        "subject", "criterion", "update_gain_interval", "p_up", "p_comp", "p_1", "chain", "flips", "changes", "backfill",
        "thresholds", "distributions",
        "left_out", "runs",
    ]  # fmt: skip
    assert list(found["cells"][0]["metrics"]) == ["map", "recall@1"]
    assert found["cells"][1]["role"] == "new/old"
    again = EvalResult.model_validate_json(result.to_json())
    assert again.model_dump() == result.model_dump()
    with pytest.raises(UsageError, match="read from JSON"):
        again.gate("new/old.map > 0")


def test_unrelated_spaces_are_refused_unless_asked_for_and_then_marked(store):
    request = EvalRequest(old="cars/old", new="cars/other", bootstrap=200)
    with pytest.raises(SpaceMismatchError) as caught:
        evaluate(store, request)
    for part in ("featstore train --loss odpp --old cars/old --new cars/other", "featstore apply RUN cars/other"):
        assert part in caught.value.hint
    result = evaluate(store, request.model_copy(update={"allow_unrelated": True}))
    assert {cell.role: cell.unrelated for cell in result.cells} == {
        "old/old": False,
        "new/old": True,
        "new/new": False,
    }
    assert result.compatible["map"] is False


def test_different_widths_are_always_refused(store):
    with pytest.raises(AlignmentError, match=r"cars/best has width 24 and cars/old width 16(.|\n)*featstore train"):
        evaluate(store, EvalRequest(old="cars/old", new="cars/best", allow_unrelated=True))


def test_filters_make_a_query_gallery_evaluation(store, data):
    result = evaluate(
        store,
        EvalRequest(
            query="cars/better", gallery="cars/old", query_where=("split=test",), gallery_where=("split=train",)
        ),
    )
    rows = used_rows()
    query, gallery = rows[rows % 2 == 0], rows[rows % 2 == 1]
    expected = evaluate_arrays(
        data["better"][query],
        data["old"][gallery],
        query_labels=data["labels"][query],
        gallery_labels=data["labels"][gallery],
    )
    assert [cell.role for cell in result.cells] == ["query/gallery"]
    assert result.cells[0].metrics["map"] == expected.mean("map")
    assert result.protocol.kind == "query/gallery"
    assert result.protocol.in_gallery == 0
    assert result.verdict is None
    within = evaluate(store, EvalRequest(old="cars/old", query_where=("split=test",), bootstrap=0))
    assert within.protocol.in_gallery == within.protocol.queries.used
    assert within.cells[0].interval == {}


def test_sets_of_two_datasets_join_by_class_name_and_exclude_by_id(store, data):
    order = np.random.default_rng(1).permutation(N)[:90]
    names = [f"class {label}" for label in data["labels"][order]]
    ids = [f"{row}.jpg" if place % 3 else f"new-{row}.jpg" for place, row in enumerate(order)]
    store.create_dataset("more", NewRows(ids, ["unheard of", *names[1:]]))
    add_set(store, "more", "old", data["old"][order], space=store.features("cars/old").space)
    result = evaluate(store, EvalRequest(query="more/old", gallery="cars/old", bootstrap=0))
    gallery = np.arange(N)[(np.arange(N) % 40 != 0) & ~np.isin(np.arange(N), [5, 100])]
    place = {int(row): number for number, row in enumerate(gallery)}
    expected = evaluate_arrays(
        data["old"][order],
        data["old"][gallery],
        query_labels=np.concatenate([[-1], data["labels"][order][1:]]),
        gallery_labels=data["labels"][gallery],
        self_rows=np.array([place.get(int(row), -1) if number % 3 else -1 for number, row in enumerate(order)]),
    )
    assert result.cells[0].metrics["map"] == expected.mean("map")
    assert (result.cells[0].n_queries, result.cells[0].n_skipped) == (89, 1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (EvalRequest(), "no feature set was named"),
        (EvalRequest(query="cars/old"), "--gallery is missing"),
        (EvalRequest(gallery="cars/old"), "--query is missing"),
        (EvalRequest(query="cars/old", gallery="cars/old", old="cars/old"), "do not go with --old"),
        (EvalRequest(old="cars/old", metrics=("maap",)), "no metric called 'maap'"),
        (EvalRequest(old="cars/old", where=("id=1.jpg",)), "none of the 1 queries has another row"),
        (EvalRequest(old="cars/old", where=("id=40.jpg",)), "none of these has a class"),
        (EvalRequest(old="cars/old", where=("id=5.jpg",)), "0 have features in cars/old"),
    ],
)
def test_what_means_nothing_is_refused_with_a_hint(store, request_, message):
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(store, request_)
    assert caught.value.hint


def test_unknown_names_and_roles_of_two_datasets_are_refused(store, data):
    with pytest.raises(UnknownNameError, match="no column of dataset cars called 'splt'"):
        evaluate(store, EvalRequest(old="cars/old", where=("splt=test",)))
    store.create_dataset("bikes", NewRows(["a", "b"], ["x", "x"]))
    add_set(store, "bikes", "old", data["old"][:2], space=store.features("cars/old").space)
    with pytest.raises(AlignmentError, match="different datasets"):
        evaluate(store, EvalRequest(old="cars/old", new="bikes/old"))


def test_zero_rows_are_named_by_id(store, data):
    features = data["old"].copy()
    features[[9, 11]] = 0
    add_set(store, "cars", "zeros", features)
    with pytest.raises(NonFiniteError, match=r"cars/zeros@1: 2 of \d+ rows .*2 of zero norm.*9.jpg, 11.jpg"):
        evaluate(store, EvalRequest(old="cars/zeros"))


def test_importing_the_package_loads_no_compiler():
    heavy = "numba", "torch", "faiss", "zarr"
    code = f"import sys, featstore.evaluate; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
