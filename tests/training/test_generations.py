"""What a run takes from the run that made the old features: its classifier, its vertices, its lineage."""

import json
from statistics import fmean

import numpy as np
import pytest

from featstore.errors import CorruptStoreError, SpaceMismatchError, TrainingError, UsageError
from featstore.evaluate import evaluate_arrays
from featstore.maps import apply_map
from featstore.runs import read_card
from featstore.spaces import comparable
from featstore_training import TrainConfig, train

from .conftest import toy_store

SIX = "label=" + ",".join(f"class {n}" for n in range(6))


def fit(store, folder, name, **settings):
    base = {"epochs": 12, "batch": 32, "lr": 0.01, "where": "split=train", "val_fraction": 0.2}
    report = train(store, TrainConfig(**(base | settings)), folder / name)
    apply_map(store, report.folder, settings["new"], f"toy/{name}")
    return report


def mean_ap(store, query, gallery, *where):
    dataset = store.dataset("toy")
    rows = dataset.select(["split=test", *where])
    rows = rows[dataset.labels.codes[rows] >= 0]
    labels = dataset.labels.codes[rows]
    new, old = (store.features(name).gather(rows) for name in (query, gallery))
    return evaluate_arrays(
        new, old, query_labels=labels, gallery_labels=labels, self_rows=np.arange(len(rows)), metrics=("map",)
    ).mean("map")


@pytest.mark.parametrize("head", ["softmax", "cosine", "arcface", "cosface"])
def test_the_stored_old_classifier_teaches_the_new_features(store, tmp_path, head):
    common = {"epochs": 12, "lr": 0.03}
    over_apart = []
    for seed in range(3):
        v1, v2, apart = (f"{name}-{seed}" for name in ("v1", "v2", "apart"))
        alone = common | {"loss": "independent", "width": 10, "seed": seed}
        first = fit(store, tmp_path, v1, new="toy/old", head=head, **alone | {"where": ("split=train", SIX)})
        taught = {"loss": "bct:classifier", "old": f"toy/{v1}", "old_run": first.folder, "params": {"weight": 3}}
        report = fit(store, tmp_path, v2, new="toy/new", **common, **taught, seed=seed)
        assert any("2 of 8 classes are unknown to the old classifier" in note for note in report.notes)
        fit(store, tmp_path, apart, new="toy/new", **alone)
        over_apart.append(mean_ap(store, f"toy/{v2}", f"toy/{v1}") - mean_ap(store, f"toy/{apart}", f"toy/{v1}"))
        card = read_card(report.folder)
        assert card.training["head"]["type"] == "cosine"
        old = store.features(f"toy/{v1}").space
        assert card.training["lineage"] == [{"name": v1, "space": old.digest, "loss": "independent"}]
    assert fmean(over_apart) > 0.1  # 0.22 to 0.25 by the old head, ± 0.06 to 0.10 over seeds


def test_a_chain_knows_all_its_generations(store, tmp_path):
    first = fit(store, tmp_path, "v1", loss="independent", new="toy/old", width=10, epochs=2)
    second = fit(store, tmp_path, "v2", loss="bct", new="toy/new", old="toy/v1", old_run=first.folder, epochs=2)
    third = fit(store, tmp_path, "v3", loss="odpp", new="toy/new", old="toy/v2", old_run=second.folder, epochs=2)
    card = read_card(third.folder)
    assert [entry["name"] for entry in card.training["lineage"]] == ["v1", "v2"]
    spaces = [store.features(f"toy/v{n}").space for n in (1, 2, 3)]
    assert [entry["space"] for entry in card.training["lineage"]] == [space.digest for space in spaces[:2]]
    assert comparable(spaces[2], spaces[1])
    assert not comparable(spaces[2], spaces[0])  # nothing trained that; it is measured, not declared


def test_generations_on_shared_vertices_are_compatible_though_trained_apart(tmp_path):
    store = toy_store(tmp_path / "store", each=80)
    simplex = {"name": "simplex", "capacity": 12}
    gains, over_apart = [], []
    for seed in range(3):
        common = {"loss": "cores", "head": simplex, "epochs": 10, "lr": 0.03, "seed": seed}
        v1, v2, apart = (f"{name}-{seed}" for name in ("v1", "v2", "apart"))
        first = fit(store, tmp_path, v1, new="toy/old", where=("split=train", SIX), **common)
        second = fit(store, tmp_path, v2, new="toy/new", old=f"toy/{v1}", old_run=first.folder, **common)
        assigned = [read_card(report.folder).training["head"]["assigned"] for report in (first, second)]
        assert assigned[0] == {f"class {n}": n for n in range(6)}
        assert assigned[1] == {f"class {n}": n for n in range(8)}
        assert store.features(f"toy/{v2}").width == 11
        assert comparable(store.features(f"toy/{v2}").space, store.features(f"toy/{v1}").space)
        # without the vertices of the first generation the same training is compatible with nothing
        fit(store, tmp_path, apart, new="toy/new", **common | {"where": ("split=train", "label!=class 0")})
        cross, before, unrelated = (mean_ap(store, f"toy/{query}", f"toy/{v1}", SIX) for query in (v2, v1, apart))
        gains.append(cross - before)
        over_apart.append(cross - unrelated)
    # of classes that both generations saw: 0.06 ± 0.03 and 0.19 ± 0.04 over seeds
    assert fmean(gains) > 0
    assert fmean(over_apart) > 0.1


def test_what_an_old_run_must_be(store, tmp_path):
    first = fit(store, tmp_path, "v1", loss="independent", new="toy/old", width=10, epochs=1)
    settings = {"new": "toy/new", "old": "toy/v1", "epochs": 1}
    with pytest.raises(UsageError, match="old classifier") as caught:
        train(store, TrainConfig(loss="bct:classifier", **settings), tmp_path / "x")
    assert "--old-run" in caught.value.hint
    with pytest.raises(SpaceMismatchError):
        train(store, TrainConfig(loss="bct", old_run=first.folder, **settings | {"old": "toy/old"}), tmp_path / "x")
    with pytest.raises(UsageError, match="which vertex"):
        train(store, TrainConfig(loss="cores", **settings), tmp_path / "x")
    with pytest.raises(TrainingError, match="has a cosine head, this one a simplex of 1024") as caught:
        train(store, TrainConfig(loss="cores", old_run=first.folder, **settings), tmp_path / "x")
    assert caught.value.hint == "train the old one on it too: --loss cores --set head.capacity=1024"
    with pytest.raises(UsageError, match="width 11, not 5"):
        train(
            store,
            TrainConfig(loss="cores", new="toy/new", width=5, head={"name": "simplex", "capacity": 12}),
            tmp_path / "x",
        )
    with pytest.raises(TrainingError, match="do not fit on 5 vertices"):
        train(store, TrainConfig(loss="cores", new="toy/new", head={"name": "simplex", "capacity": 5}), tmp_path / "x")
    card = json.loads((first.folder / "card.json").read_text())
    (first.folder / "classifier.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptStoreError):
        train(store, TrainConfig(loss="bct:classifier", old_run=first.folder, **settings), tmp_path / "x")
    assert card["files"]
    assert not (tmp_path / "x").exists()
