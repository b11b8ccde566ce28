"""In-shop, zero-shot and re-identification: the rows they choose and the answers they count."""

import numpy as np
import pytest

from featstore.errors import UnknownNameError, UsageError
from featstore.evaluate.arrays import evaluate_arrays
from tests.evaluate import reference

N = 90


def data(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 8, N)
    return rng, labels, (rng.normal(size=(8, 5))[labels] + rng.normal(size=(N, 5))).astype(np.float32)


def test_inshop_queries_its_gallery_partition(world):
    rng, labels, features = data()
    part = rng.choice(["query", "gallery", "train"], N)
    world.add("shop", features, labels=labels, columns={"evaluation_status": part.tolist()})
    found = world.values("shop/f", protocol="inshop")
    query, gallery = part == "query", part == "gallery"
    expected = evaluate_arrays(
        features[query],
        features[gallery],
        query_labels=labels[query],
        gallery_labels=labels[gallery],
        metrics=("recall@1", "recall@10", "recall@20", "recall@30", "map"),
    )
    assert list(found) == list(expected.values)
    for name, values in expected.values.items():
        np.testing.assert_array_equal(found[name], values)
    world.add("plain", features, labels=labels)
    with pytest.raises(UsageError, match="evaluation_status, partition, split"):
        world.evaluate("plain/f", protocol="inshop")


@pytest.mark.parametrize(
    ("name", "recalls"), [("cub", (1, 2, 4, 8)), ("cars", (1, 2, 4, 8)), ("sop", (1, 10, 100, 1000))]
)
def test_zero_shot_protocols_let_every_test_row_query_all_others(world, name, recalls):
    _, labels, features = data()
    world.add(
        "birds", features, labels=labels, columns={"split": ["test" if label > 3 else "train" for label in labels]}
    )
    result = world.evaluate("birds/f", protocol=name, where=("split=test",))
    assert list(result.cells[0].metrics) == [*(f"recall@{k}" for k in recalls), "map@r", "r-precision"]
    assert (result.headline, result.protocol.kind) == ("recall@1", name)
    test = labels > 3
    expected = evaluate_arrays(
        features[test], features[test], query_labels=labels[test], gallery_labels=labels[test],
        self_rows=np.arange(test.sum()), metrics=("map@r",),
    )  # fmt: skip
    assert result.cells[0].metrics["map@r"] == expected.mean("map@r")
    with pytest.raises(UsageError, match="both sides are the same rows"):
        world.evaluate("birds/f", protocol=name, query_where=("split=test",))


def test_reid_ranks_other_cameras_without_junk_and_with_distractors(world):
    rng = np.random.default_rng(1)
    people = rng.choice(["-1", "0000", *(f"{person:04d}" for person in range(1, 6))], N)
    cameras, split = rng.integers(1, 4, N), rng.choice(["query", "gallery"], N)
    people[(split == "query") & np.isin(people, ["-1", "0000"])] = "0001"
    people[0], cameras[0], split[0] = "0099", 1, "query"  # seen by one camera only
    features = (rng.normal(size=(100, 6))[[int(person) for person in people]] + rng.normal(size=(N, 6))).astype(
        np.float32
    )
    world.add("market", features, labels=people, columns={"camera": cameras, "split": split.tolist()})
    found = world.values("market/f", protocol="reid", query_where=("split=query",), gallery_where=("split=gallery",))
    assert list(found) == ["map", "recall@1", "recall@5", "recall@10", "recall@20"]
    queries, gallery = np.flatnonzero(split == "query"), np.flatnonzero((split == "gallery") & (people != "-1"))
    score = reference.scores(features[queries], features[gallery])
    for place, row in enumerate(queries):
        same = people[gallery] == people[row]
        keep = ~(same & (cameras[gallery] == cameras[row]))
        if not (same & keep).any():
            assert np.isnan(found["map"][place])
            continue
        rel = reference.relevance_of_ranking(score[place], same, keep)
        for name, values in found.items():
            assert values[place] == pytest.approx(reference.metric(name, rel), abs=1e-12)


def test_reid_within_one_set_leaves_the_query_out_and_needs_cameras(world):
    rng, labels, features = data(2)
    world.add("people", features, labels=labels + 1, columns={"cam": [f"c{rng.integers(2)}" for _ in range(N)]})
    cell = world.evaluate("people/f", protocol="reid").cells[0]
    assert cell.n_queries > 0
    world.add("blind", features, labels=labels)
    with pytest.raises(UsageError, match="which camera saw a row"):
        world.evaluate("blind/f", protocol="reid")


def test_unknown_protocols_and_metrics_of_another_kind_are_refused(world):
    _, labels, features = data()
    world.add("birds", features, labels=labels)
    with pytest.raises(UnknownNameError, match=r"no protocol called 'cubs'(.|\n)*did you mean cub"):
        world.evaluate("birds/f", protocol="cubs")
    with pytest.raises(UsageError, match=r"'tar@far=0\.1' is no metric of the protocol leave-one-out"):
        world.evaluate("birds/f", metrics=("tar@far=0.1",))
    with pytest.raises(UsageError, match="'map' is no metric of the protocol verification"):
        world.evaluate("birds/f", protocol="verification", metrics=("map",))


def test_memory_and_workers_change_no_number(world):
    _, labels, features = data()
    world.add("birds", features, labels=labels, failed=(4, 70))
    plain = world.values("birds/f")
    for settings in ({"max_memory": 40 * 2**20}, {"workers": 2}):
        for name, values in world.values("birds/f", **settings).items():
            np.testing.assert_array_equal(values, plain[name])


def test_widths_are_made_equal_only_when_asked_for(world):
    _, labels, features = data()
    world.add("birds", features, labels=labels)
    world.add("birds", np.hstack([features, features[:, :2]]), name="wide", space="wide")
    both = {"allow_unrelated": True}
    for widths, width, query, gallery in (
        ("truncate", 5, features, features),
        ("pad", 7, np.hstack([features, features[:, :2]]), np.pad(features, ((0, 0), (0, 2)))),
    ):
        result = world.evaluate("birds/wide", "birds/f", widths=widths, **both)
        expected = evaluate_arrays(
            query, gallery, query_labels=labels, gallery_labels=labels, self_rows=np.arange(N), metrics=("map",)
        )
        assert result.cells[0].width == width
        assert result.cells[0].metrics["map"] == expected.mean("map")
    with pytest.raises(ValueError, match="vectors of different widths cannot be compared"):
        world.evaluate("birds/wide", "birds/f", **both)


def test_the_score_is_an_option(world):
    _, labels, features = data()
    world.add("birds", features, labels=labels)
    for kind in ("inner", "euclidean"):
        expected = evaluate_arrays(
            features, features, query_labels=labels, gallery_labels=labels, self_rows=np.arange(N), kind=kind
        )
        result = world.evaluate("birds/f", score=kind)
        assert result.cells[0].metrics["map"] == expected.mean("map")
        assert result.protocol.score.startswith(kind)


def test_distractors_are_appended_in_the_gallerys_space(world):
    rng, labels, features = data()
    extra = rng.normal(size=(40, 5)).astype(np.float32)
    world.add("birds", features, labels=labels)
    world.add("noise", extra, failed=(0,))
    result = world.evaluate("birds/f", distractors="noise")
    expected = evaluate_arrays(
        features, np.vstack([features, extra[1:]]), query_labels=labels,
        gallery_labels=np.concatenate([labels, np.full(39, -1)]), self_rows=np.arange(N), metrics=("map",),
    )  # fmt: skip
    assert result.cells[0].metrics["map"] == expected.mean("map")
    world.add("other", extra, space="something else")
    with pytest.raises(ValueError, match="the space is not the one expected"):
        world.evaluate("birds/f", distractors="other")
