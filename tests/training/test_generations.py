"""What a run takes from the run that made the old features: its classifier, its vertices, its lineage."""

import json

import numpy as np
import pytest

from featstore.errors import CorruptStoreError, SpaceMismatchError, TrainingError, UsageError
from featstore.evaluate import evaluate_arrays
from featstore.maps import apply_map
from featstore.runs import read_card
from featstore.spaces import comparable
from featstore_training import TrainConfig, train

SIX = "label=" + ",".join(f"class {n}" for n in range(6))


def fit(store, folder, name, **settings):
    base = {"epochs": 12, "batch": 32, "lr": 0.01, "where": "split=train", "val_fraction": 0.2}
    report = train(store, TrainConfig(**(base | settings)), folder / name)
    apply_map(store, report.folder, settings["new"], f"toy/{name}")
    return report


def mean_ap(store, query, gallery):
    dataset = store.dataset("toy")
    rows = dataset.select(["split=test"])
    rows = rows[dataset.labels.codes[rows] >= 0]
    labels = dataset.labels.codes[rows]
    new, old = (store.features(name).gather(rows) for name in (query, gallery))
    return evaluate_arrays(
        new, old, query_labels=labels, gallery_labels=labels, self_rows=np.arange(len(rows)), metrics=("map",)
    ).mean("map")


@pytest.mark.parametrize("head", ["softmax", "cosine", "arcface", "cosface"])
def test_the_stored_old_classifier_teaches_the_new_features(store, tmp_path, head):
    six = {"where": ("split=train", SIX), "epochs": 30}
    first = fit(store, tmp_path, "v1", loss="independent", new="toy/old", width=10, head=head, **six)
    taught = {"loss": "bct:classifier", "old": "toy/v1", "old_run": first.folder, "params": {"weight": 3}}
    report = fit(store, tmp_path, "v2", new="toy/new", epochs=30, **taught)
    assert any("2 of 8 classes are unknown to the old classifier" in note for note in report.notes)
    fit(store, tmp_path, "apart", loss="independent", new="toy/new", width=10, epochs=30)
    assert mean_ap(store, "toy/v2", "toy/v1") > mean_ap(store, "toy/apart", "toy/v1") + 0.1
    card = read_card(report.folder)
    assert card.training["head"]["type"] == "cosine"
    old = store.features("toy/v1").space
    assert card.training["lineage"] == [{"name": "v1", "space": old.digest, "loss": "independent"}]


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


def test_generations_on_shared_vertices_are_compatible_though_trained_apart(store, tmp_path):
    simplex = {"name": "simplex", "capacity": 12}
    common = {"loss": "cores", "head": simplex, "epochs": 30}
    first = fit(store, tmp_path, "v1", new="toy/old", where=("split=train", SIX), **common)
    second = fit(store, tmp_path, "v2", new="toy/new", old="toy/v1", old_run=first.folder, **common)
    assigned = [read_card(report.folder).training["head"]["assigned"] for report in (first, second)]
    assert assigned[0] == {f"class {n}": n for n in range(6)}
    assert assigned[1] == {f"class {n}": n for n in range(8)}
    assert store.features("toy/v2").width == 11
    assert comparable(store.features("toy/v2").space, store.features("toy/v1").space)
    cross, before = mean_ap(store, "toy/v2", "toy/v1"), mean_ap(store, "toy/v1", "toy/v1")
    assert cross > before
    # without the vertices of the first generation the same training is compatible with nothing
    apart = {"new": "toy/new", "where": ("split=train", "label!=class 0"), "seed": 1}
    fit(store, tmp_path, "apart", **common | apart)
    assert mean_ap(store, "toy/apart", "toy/v1") < cross - 0.2


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
    with pytest.raises(TrainingError, match="one simplex"):
        train(store, TrainConfig(loss="cores", old_run=first.folder, **settings), tmp_path / "x")
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
