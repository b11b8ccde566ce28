"""Revisited Oxford and Paris against the definition, and its ground truth read without executing anything."""

import json
import os
import pickle

import numpy as np
import pytest

from featstore.errors import BadInputError, IncompleteError, NotFoundError, UntrustedError, UsageError
from featstore.evaluate.protocols.revisited import read_revisited
from tests.evaluate import reference

QUERIES, IMAGES = 9, 120
ANSWERS = {"easy": ["easy"], "medium": ["easy", "hard"], "hard": ["hard"]}
JUNK = {"easy": ["junk", "hard"], "medium": ["junk"], "hard": ["junk", "easy"]}


def truth(rng):
    groups = []
    for query in range(QUERIES):
        places = rng.permutation(IMAGES)
        cuts = np.cumsum([0 if query == 2 else 4, 6, 5])  # the third query has no easy answer
        parts = np.split(places[: cuts[-1]], cuts[:-1])
        groups.append({"bbx": [0.5, 1.0], **dict(zip(("easy", "hard", "junk"), parts, strict=True))})
    images, queries = [f"db_{row:03d}" for row in range(IMAGES)], [f"q_{row}" for row in range(QUERIES)]
    return {"imlist": images, "qimlist": queries, "gnd": groups}


def plain(found):
    gnd = [{key: np.asarray(value).tolist() for key, value in entry.items()} for entry in found["gnd"]]
    return found | {"gnd": gnd}


def published(scores, entry, setting):
    """Trapezoidal AP and mP@k from 0-based positions after junk is taken out."""
    ok, junk = (np.concatenate([entry[group] for group in groups[setting]]).astype(int) for groups in (ANSWERS, JUNK))
    order = [row for row in np.argsort(-scores, kind="stable") if row not in junk]
    places = np.flatnonzero(np.isin(order, ok))
    if not len(places):
        return None
    steps = [((1 if p == 0 else j / p) + (j + 1) / (p + 1)) / 2 for j, p in enumerate(places)]
    lowered = {k: min(places.max() + 1, k) for k in (1, 5, 10)}
    return {
        "map:trapezoid": sum(steps) / len(ok),
        **{f"precision@{k}:revisited": (places < low).sum() / low for k, low in lowered.items()},
    }


@pytest.fixture
def oxford(world, tmp_path):
    rng = np.random.default_rng(0)
    found = truth(rng)
    query, gallery = rng.normal(size=(QUERIES, 8)).astype(np.float32), rng.normal(size=(IMAGES, 8)).astype(np.float32)
    for number, entry in enumerate(found["gnd"]):
        gallery[np.concatenate([entry["easy"], entry["hard"]]).astype(int)] += query[number]
    stored = rng.permutation(IMAGES)
    world.add("queries", query, ids=[f"query/{name}.jpg" for name in found["qimlist"]])
    world.add("database", gallery[stored], ids=[f"jpg/{found['imlist'][row]}.jpg" for row in stored])
    world.truth, world.scores = found, reference.scores(query, gallery)
    world.path = tmp_path / "gnd.json"
    world.path.write_text(json.dumps(plain(found)))
    return world


@pytest.mark.parametrize("setting", ["easy", "medium", "hard"])
def test_every_setting_follows_the_published_definition(oxford, setting):
    found = oxford.values("queries/f", "database/f", protocol=f"revisited-{setting}", ground_truth=oxford.path)
    assert list(found) == ["map:trapezoid", "precision@1:revisited", "precision@5:revisited", "precision@10:revisited"]
    for query, entry in enumerate(oxford.truth["gnd"]):
        expected = published(oxford.scores[query], entry, setting)
        for metric, values in found.items():
            if expected is None:
                assert np.isnan(values[query])
            else:
                assert values[query] == pytest.approx(expected[metric], abs=1e-9)


def test_queries_without_an_easy_answer_are_skipped_and_distractors_only_push_down(oxford):
    options = {"protocol": "revisited-easy", "ground_truth": oxford.path}
    cell = oxford.evaluate("queries/f", "database/f", **options).cells[0]
    assert (cell.n_queries, cell.n_skipped) == (QUERIES - 1, 1)
    rng = np.random.default_rng(1)
    oxford.add("million", rng.normal(size=(500, 8)).astype(np.float32), failed=(3,))
    more = oxford.evaluate("queries/f", "database/f", distractors="million", **options)
    assert more.cells[0].metrics["map:trapezoid"] < cell.metrics["map:trapezoid"]
    assert more.protocol.distractors == "million"


def test_json_and_the_published_pickles_hold_the_same(tmp_path):
    found = truth(np.random.default_rng(3))
    (tmp_path / "gnd.json").write_text(json.dumps(plain(found)))
    expected = read_revisited(tmp_path / "gnd.json")
    for protocol in (0, 2, 4, 5):
        path = tmp_path / f"gnd{protocol}.pkl"
        path.write_bytes(pickle.dumps(found, protocol=protocol))
        assert read_revisited(path) == expected


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("payload", [Evil(), {"imlist": [Evil()]}, np.float64, print, np.array([Evil()], object)])
def test_a_pickle_that_holds_more_than_data_is_refused_and_nothing_runs(tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps(payload))
    with pytest.raises((UntrustedError, BadInputError)) as caught:
        read_revisited(path)
    assert caught.value.hint
    assert not (tmp_path / "executed").exists()


def test_damaged_and_wrong_files_are_refused(tmp_path, oxford):
    good = pickle.dumps(truth(np.random.default_rng(4)))
    path = tmp_path / "gnd.pkl"
    for cut in range(0, len(good), 211):
        path.write_bytes(good[:cut])
        with pytest.raises((BadInputError, UntrustedError)):
            read_revisited(path)
    for document in ("[]", "{}", '{"imlist": ["a"], "qimlist": ["q"], "gnd": []}', '{"imlist": 3}'):
        (tmp_path / "gnd.json").write_text(document)
        with pytest.raises(BadInputError):
            read_revisited(tmp_path / "gnd.json")
    beyond = {"imlist": ["a"], "qimlist": ["q"], "gnd": [{"easy": [1], "hard": [], "junk": []}]}
    (tmp_path / "gnd.json").write_text(json.dumps(beyond))
    with pytest.raises(BadInputError, match="places beyond imlist"):
        read_revisited(tmp_path / "gnd.json")
    with pytest.raises(NotFoundError):
        read_revisited(tmp_path / "nowhere.pkl")
    with pytest.raises(UsageError, match="needs its ground truth"):
        oxford.evaluate("queries/f", "database/f", protocol="revisited-hard")
    with pytest.raises(UsageError, match="reads no ground truth"):
        oxford.evaluate("queries/f", "database/f", ground_truth=tmp_path / "gnd.json")


def test_an_image_without_a_feature_is_named(oxford):
    oxford.add("database", np.ones((IMAGES, 8), np.float32), name="g", failed=(5,))
    oxford.add("queries", np.ones((QUERIES, 8), np.float32), name="g")
    with pytest.raises(IncompleteError, match=r"1 of 120 database images have no feature.*db_\d+"):
        oxford.evaluate("queries/g", "database/g", protocol="revisited-hard", ground_truth=oxford.path)
