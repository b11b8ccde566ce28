"""`train` from a store to a run folder: what it writes, resumes, refuses and repeats."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from featstore.errors import AlreadyExistsError, CorruptStoreError, TrainingError, UnknownNameError, UsageError
from featstore.maps import load_map
from featstore.progress import SILENT
from featstore.runs import read_card
from featstore.spaces import comparable
from featstore_training import TrainConfig, losses, train
from featstore_training.checkpoint import RESUME
from featstore_training.head_config import CosineConfig, SimplexConfig

from .conftest import OLD, write


class Listener:
    """Remembers notes; stops the run like a user at an epoch."""

    def __init__(self, stop_after=None):
        self.notes, self.epochs, self.stop_after = [], 0, stop_after

    def start(self, task, total, unit, *, done=0):  # noqa: ARG002 - the protocol's signature
        self.epochs = done

    def advance(self, n):
        self.epochs += n
        if self.epochs == self.stop_after:
            raise KeyboardInterrupt

    def note(self, message):
        self.notes.append(message)


def config(loss="odpp", **changes):
    settings = {"loss": loss, "new": "toy/new", "old": "toy/old", "where": "split=train", "epochs": 8, "batch": 32}
    if loss == "cores":  # a first generation
        settings |= {"old": None, "head": {"name": "simplex", "capacity": OLD + 1}}
    if loss == "bt2":
        settings |= {"map": {"name": "basis", "extra": 4}}
    return TrainConfig(**(settings | {"lr": 0.01, "val_fraction": 0.2} | changes))


def mapped_by(run, features):
    with torch.inference_mode():
        return load_map(run).module(torch.from_numpy(features)).numpy()


def weights(run):
    return {**load_file(run / "map.safetensors"), **load_file(run / "classifier.safetensors")}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


@pytest.mark.parametrize("loss", [info.name for info in losses() if "label" in info.needs])
def test_a_run_folder_holds_everything(store, tmp_path, loss):
    listener = Listener()
    report = train(store, config(loss), tmp_path / "run", progress=listener)
    assert sorted(p.name for p in report.folder.iterdir()) == [
        *(["bridge"] if loss == "bt2" else []),
        "card.json",
        "classifier.safetensors",
        "map.safetensors",
        "metrics.jsonl",
    ]
    assert not report.cached
    assert report.classes == 8
    assert report.rows + report.validation_rows + report.unlabelled == 120
    assert (report.unlabelled, report.missing) == (2, 0)
    assert "2 rows without a label are left out" in listener.notes
    assert listener.epochs == 8

    card = read_card(report.folder)
    training = card.training
    assert training["head"]["class_names"] == [f"class {n}" for n in range(8)]
    assert training["head"]["type"] == ("simplex" if loss == "cores" else "cosine")
    assert weights(report.folder)["vertex" if loss == "cores" else "weight"].shape[0] == 8
    assert set(card.files) == {"map.safetensors", "classifier.safetensors"}
    old, compares = store.features("toy/old").space, loss not in ("independent", "cores")
    compared = read_card(report.folder / "bridge").space if loss == "bt2" else card.space
    assert compared.compatible_with == ((old.digest,) if compares else ())
    assert comparable(compared, old) == compares
    assert training["lineage"] == ([{"name": "old", "space": old.digest}] if compares else [])

    lines = [json.loads(line) for line in (report.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    scores = [line["validation"]["score"] for line in lines]
    assert report.epoch == 1 + scores.index(max(scores))
    assert report.validation["score"] == max(scores)
    key = None if compares else "self_test"
    best = lines[report.epoch - 1]["validation"]
    if key:
        assert best["score"] == best[key]
    else:
        cross = best["cross_test"] / report.validation["old_old"]
        itself = best["self_test"] / report.validation["reference_self"]
        assert best["score"] == pytest.approx(2 * cross * itself / (cross + itself))


@pytest.mark.parametrize(
    ("loss", "optimizer"), [*((info.name, "adam") for info in losses() if "label" in info.needs), ("odpp", "sgd")]
)
def test_a_resumed_run_reaches_the_same_weights(store, tmp_path, loss, optimizer):
    settings = config(loss, optimizer=optimizer)
    whole = train(store, settings, tmp_path / "whole")
    for stop in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            train(store, settings, tmp_path / "broken", progress=Listener(stop_after=stop))
        # a crash between the log and the checkpoint leaves a line too many
        with (tmp_path / "broken" / "metrics.jsonl").open("a") as stream:
            stream.write('{"epoch": 99}\n')
    finished = train(store, settings, tmp_path / "broken")
    assert finished.resumed_at == 6
    assert_equal(weights(whole.folder), weights(finished.folder))
    assert finished.epoch == whole.epoch
    assert finished.validation == whole.validation

    def log(run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert log(whole.folder) == log(finished.folder)


def test_same_seed_same_weights_other_seed_others_and_the_global_generator_is_left_alone(store, tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = train(store, config(epochs=2), tmp_path / "a")
    assert torch.equal(torch.rand(3), expected)
    again = train(store, config(epochs=2), tmp_path / "b")
    other = train(store, config(epochs=2, seed=1), tmp_path / "c")
    assert_equal(weights(first.folder), weights(again.folder))
    assert not torch.equal(weights(first.folder)["weight"], weights(other.folder)["weight"])


def test_generations_of_one_seed_begin_apart_and_methods_of_one_seed_alike(store, tmp_path):
    untrained = {"epochs": 1, "lr": 1e-9, "width": 10}
    generations = {
        "old": config("independent", new="toy/old", **untrained),
        "fewer rows": config("independent", where=("split=train", "label!=class 0"), **untrained),
        "new": config("independent", **untrained),
        "method": config("l2", bridge="pad", **untrained),
        "head": config("bct", bridge="pad", head="softmax", **untrained),
    }
    for name, settings in generations.items():
        train(store, settings, tmp_path / name)
    begun = {name: weights(tmp_path / name) for name in generations}
    vectors = {name: torch.nn.functional.normalize(found["weight"], dim=1) for name, found in begun.items()}
    for name in ("old", "fewer rows"):  # class n of the one and of the other, wherever both have it
        pairs = zip(vectors["new"][-len(vectors[name]) :], vectors[name], strict=True)
        assert abs(np.mean([float(own @ other) for own, other in pairs])) < 0.5
    for name in ("method", "head"):
        for key, value in begun["new"].items():
            torch.testing.assert_close(begun[name][key], value, atol=1e-6, rtol=0)


def test_a_finished_run_is_cached_and_another_one_refused(store, tmp_path):
    first = train(store, config(epochs=2), tmp_path / "run")
    before = {p.name: p.stat().st_mtime_ns for p in first.folder.iterdir()}
    listener = Listener()
    again = train(store, config(epochs=2), tmp_path / "run", progress=listener)
    assert again.cached
    assert again.validation == first.validation
    assert {p.name: p.stat().st_mtime_ns for p in first.folder.iterdir()} == before
    assert "cached" in listener.notes[0]
    with pytest.raises(AlreadyExistsError, match=r"config\.lr: 0\.01 \(there\) · 0\.02 \(asked for\)"):
        train(store, config(epochs=2, lr=0.02), tmp_path / "run")
    with pytest.raises(AlreadyExistsError, match="inputs"):
        train(store, config(epochs=2, old="toy/new", width=20), tmp_path / "run")


def test_an_unfinished_run_of_another_config_is_refused(store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(store, config(), tmp_path / "run", progress=Listener(stop_after=1))
    with pytest.raises(AlreadyExistsError, match=r"unfinished.*\n.*config\.seed"):
        train(store, config(seed=5), tmp_path / "run")
    (tmp_path / "run" / RESUME).write_bytes(b"torn")
    with pytest.raises(CorruptStoreError, match="cannot be used"):
        train(store, config(), tmp_path / "run")


def test_foreign_files_are_not_written_beside(store, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    with pytest.raises(AlreadyExistsError, match=r"thesis\.tex"):
        train(store, config(), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(store, tmp_path, monkeypatch):
    from featstore_training.objectives.bct import Bct

    honest, calls = Bct.loss, []

    def spoiled(self, batch, head):
        calls.append(1)
        terms = honest(self, batch, head)
        return {**terms, "influence": terms["influence"] * float("nan")} if len(calls) > 10 else terms

    settings = config("bct")
    whole = train(store, settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Bct, "loss", spoiled)
        with pytest.raises(TrainingError, match=r"epoch 4, step 2: .*influence = nan"):
            train(store, settings, tmp_path / "run")
    finished = train(store, settings, tmp_path / "run")
    assert finished.resumed_at == 3
    assert_equal(weights(whole.folder), weights(finished.folder))


def test_options_alone_are_those_of_the_head_that_the_loss_trains():
    assert TrainConfig(loss="bct", new="toy/new", head={"scale": 20}).head == CosineConfig(scale=20)
    assert TrainConfig(loss="cores", new="toy/new", head={"capacity": 99}).head == SimplexConfig(capacity=99)


def test_errors_say_what_helps(store, tmp_path):
    with pytest.raises(UsageError, match="no 'epoch'") as caught:
        TrainConfig(loss="bct", new="toy/new", epoch=3)
    assert "did you mean epochs" in caught.value.hint
    with pytest.raises(UsageError, match="no head called 'cosin'") as caught:
        TrainConfig(loss="bct", new="toy/new", head="cosin")
    assert "did you mean cosine" in caught.value.hint
    assert "arcface" in caught.value.hint
    with pytest.raises(UsageError, match=r"no 'map\.normalize'") as caught:
        TrainConfig(loss="bct", new="toy/new", map={"normalize": False})
    assert caught.value.hint == "did you mean normalise?; there is: name, normalise"
    with pytest.raises(UsageError, match=r"^training settings: settings of the head: scale: .*number") as caught:
        TrainConfig(loss="bct", new="toy/new", head={"scale": "wide"})
    assert caught.value.hint == "the default is scale=12.0"
    with pytest.raises(UsageError, match="old features"):
        train(store, config("bct", old=None), tmp_path / "run")
    with pytest.raises(UnknownNameError, match="bctt"):
        train(store, config("bctt"), tmp_path / "run")
    with pytest.raises(UsageError, match="lambda") as caught:
        train(store, config("bct", params={"lambda": 2}), tmp_path / "run")
    assert "weight" in caught.value.hint
    with pytest.raises(UsageError, match="hiden"):
        train(store, config("bct", map={"name": "mlp", "hiden": 2}), tmp_path / "run")
    with pytest.raises(TrainingError, match="two classes"):
        train(store, config("bct", where="label=class 1"), tmp_path / "run")
    with pytest.raises(UnknownNameError, match="metric"):
        train(store, config("bct", metric="mapp"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_independent_needs_no_old_set_and_any_map_trains(store, tmp_path):
    report = train(
        store,
        config("independent", old=None, epochs=2, map={"name": "mlp", "hidden": 16}, width=6),
        tmp_path / "run",
    )
    assert mapped_by(report.folder, store.features("toy/new").gather([0, 5])).shape == (2, 6)
    assert "cross_test" not in report.validation


def test_validation_rows_by_filter_never_train(store, tmp_path):
    report = train(store, config(where=(), val_where="split=test", epochs=1), tmp_path / "run")
    assert report.rows + report.validation_rows == 158
    assert report.validation_rows == 40


def test_old_rows_without_direction_are_named(store, tmp_path):
    features = np.ones((160, OLD))
    features[4] = 0
    from featstore.spaces import Space

    write(store, store.dataset("toy"), "dead", features, Space.named("dead", OLD))
    with pytest.raises(TrainingError, match=r"norm 0.*r4"):
        train(store, config("l2", old="toy/dead", val_fraction=0), tmp_path / "run", progress=SILENT)
