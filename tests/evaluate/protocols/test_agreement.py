"""Agreement is what its definition says, needs no labels, and claims no verdict."""

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.evaluate import EvalRequest, evaluate
from featstore.report import to_html, to_markdown
from featstore.spaces import Space
from featstore.store import NewRows, Store
from tests.evaluate.test_evaluate import add_set

N, WIDTH = 60, 6
OLD = Space.named("old", WIDTH)
QUERIES, GALLERY = ("part=query",), ("part=gallery",)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(N, WIDTH))
    return {
        name: (truth + noise * rng.normal(size=(N, WIDTH))).astype(np.float32)
        for name, noise in (("old", 1), ("new", 0.3))
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory, features):
    made = Store.init(tmp_path_factory.mktemp("agreement") / "store")
    made.create_dataset(
        "bare", NewRows([f"{row}" for row in range(N)], None, {"part": ["query"] * 20 + ["gallery"] * 40})
    )
    add_set(made, "bare", "old", features["old"], space=OLD)
    new = Space(name="new", width=WIDTH, identity={"kind": "test"}, compatible_with=(OLD.digest,))
    add_set(made, "bare", "new", features["new"], space=new)
    return made


def nearest(query, gallery, k, *, alone):
    """Gallery rows by cosine, nearest first; with `alone` no row finds itself."""
    unit = [side / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True) for side in (query, gallery)]
    scores = unit[0] @ unit[1].T
    if alone:
        np.fill_diagonal(scores, -np.inf)
    return [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in scores]


@pytest.mark.parametrize("alone", [True, False])
def test_it_is_the_share_of_the_newest_models_first_ten_that_is_found(store, features, alone):
    sides = {} if alone else {"query_where": QUERIES, "gallery_where": GALLERY}
    result = evaluate(store, EvalRequest(old="bare/old", new="bare/new", protocol="agreement", bootstrap=50, **sides))
    query, gallery = (slice(None), slice(None)) if alone else (slice(0, 20), slice(20, None))
    right = nearest(features["new"][query], features["new"][gallery], 10, alone=alone)
    for role in ("old/old", "new/old", "new/new"):
        searched, held = role.split("/")
        found = nearest(features[searched][query], features[held][gallery], 10, alone=alone)
        share = np.mean([len(a & b) / 10 for a, b in zip(found, right, strict=True)])
        assert result.cell(role).metrics["ir-recall@10"] == pytest.approx(share), role
    assert set(result.cell("new/new").metrics.values()) == {1.0}
    assert result.headline == "ir-recall@10"
    assert result.protocol.classes == (60 if alone else 20)  # each query is resampled by itself


def test_there_is_no_verdict_anywhere(store):
    request = EvalRequest(
        old="bare/old", new="bare/new", protocol="agreement", backfill=("random",), two_index=True, bootstrap=50
    )
    result = evaluate(store, request)
    assert (result.verdict, result.subject, result.compatible, result.criterion, result.flips) == (
        None,
        None,
        {},
        {},
        {},
    )
    assert [curve.nfr for curve in result.backfill] == [{}, {}]
    assert result.differences["new/old - old/old"]["ir-recall@10"].low is not None  # the numbers stay
    assert result.gate("new/new.ir-recall@10 > old/old.ir-recall@10").passed
    for page in (to_html(result), to_markdown(result)):
        assert "so there is no verdict" in page
        assert "ompatible" not in page


def test_what_cannot_be_agreed_with_is_refused(store):
    for wrong, match in (
        ({"query": "bare/old", "gallery": "bare/old"}, "newest of several models"),
        ({"new": "bare/new"}, "newest of several models"),
        ({"old": "bare/old", "new": "bare/new", "distractors": "bare"}, "--distractors does not go with"),
        ({"old": "bare/old", "new": "bare/new", "gallery_where": ("id=1,2,3",)}, "the gallery has 3 rows"),
    ):
        with pytest.raises(UsageError, match=match):
            evaluate(store, EvalRequest(protocol="agreement", **wrong))
