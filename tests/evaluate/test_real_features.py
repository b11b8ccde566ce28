"""Photos of groceries: numbers that are known from elsewhere, and the answers a user gets on real features."""

import csv
from pathlib import Path

import numpy as np
import pytest

from featstore.convert import import_features
from featstore.errors import AlignmentError
from featstore.evaluate import EvalRequest, evaluate
from featstore.store import Store

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "grocery" / "index.csv").is_file(), reason="needs ../shared/data/grocery")

HELD_OUT = {
    "where": ("part=held-out",),
    "query_where": ("capture=test",),
    "gallery_where": ("capture=train,val",),
    "metrics": ("map", "recall@1"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groceries")
    with (DATA / "grocery" / "index.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns = {
        "ids": [row["path"] for row in rows],
        "labels": [row["class_name"] for row in rows],
        "capture": [row["capture"] for row in rows],
        "part": ["held-out" if int(row["label"]) % 2 else "train" for row in rows],
    }
    store = Store.init(folder / "store")
    for name in ("v1_025_128", "v1_100_128", "lite1_192"):
        features = np.load(DATA / "features" / f"grocery_{name}.npz")["emb"]
        np.savez(folder / f"{name}.npz", features=features, **columns)
        import_features(store, folder / f"{name}.npz", f"grocery/{name}")
    return store


@pytest.mark.parametrize(
    ("name", "recall", "mean"), [("v1_025_128", 58.3, 31.7), ("v1_100_128", 71.0, 43.7), ("lite1_192", 69.3, 43.2)]
)
def test_raw_features_have_their_known_numbers(store, name, recall, mean):
    found = evaluate(store, EvalRequest(old=f"grocery/{name}", bootstrap=0, **HELD_OUT)).cells[0]
    assert (round(100 * found.metrics["recall@1"], 1), round(100 * found.metrics["map"], 1)) == (recall, mean)
    assert found.n_queries == 1197


def test_a_new_model_that_is_no_better_gives_no_gain(store):
    """v1_100 → lite1: the paired interval says that the new model is not better, so no ratio to it is given."""
    request = EvalRequest(old="grocery/v1_100_128", reference="grocery/lite1_192", bootstrap=500, **HELD_OUT)
    better = evaluate(store, request).differences["reference - old/old"]["map"]
    assert better.low < 0 < better.high
    grown = request.model_copy(update={"old": "grocery/v1_025_128", "reference": "grocery/v1_100_128"})
    assert evaluate(store, grown).differences["reference - old/old"]["map"].low > 0


def test_the_unmapped_pair_is_refused_with_what_differs_and_what_bridges_it(store):
    with pytest.raises(AlignmentError, match=r"width 1024 and grocery/v1_025_128 width 256") as caught:
        evaluate(store, EvalRequest(old="grocery/v1_025_128", new="grocery/v1_100_128", **HELD_OUT))
    assert "featstore train --loss odpp --old grocery/v1_025_128 --new grocery/v1_100_128" in caught.value.hint
    assert "featstore apply" in caught.value.hint
