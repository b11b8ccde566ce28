"""New features of another width than the old ones: truncated, padded or projected, for every method that compares."""

import json
import shlex

import numpy as np
import pytest
import torch

from featstore.errors import TrainingError, UsageError
from featstore.evaluate import evaluate_arrays
from featstore.maps import apply_map, load_map
from featstore.runs import read_card
from featstore.spaces import comparable
from featstore_cli.main import run as cli
from featstore_training import TrainConfig, losses, train
from featstore_training.bridges import make_bridge

from .conftest import OLD

COMPARING = [info.name for info in losses() if info.name not in ("independent", "cores", "bt2", "simclr")]


def config(loss, **changes):
    settings = {"loss": loss, "new": "toy/new", "old": "toy/old", "epochs": 6, "batch": 32, "lr": 0.01}
    return TrainConfig(**(settings | {"val_where": "split=test"} | changes))


@pytest.mark.parametrize("loss", COMPARING)
@pytest.mark.parametrize(("bridge", "width"), [("truncate", OLD + 4), ("pad", OLD - 4), ("project", OLD + 5)])
def test_every_method_trains_across_widths_and_the_bridge_is_what_validation_saw(store, tmp_path, loss, bridge, width):
    reached = loss in ("bct", "bank")
    settings = {"bridge": bridge, "width": width} | ({"epochs": 20, "lr": 0.03} if reached else {"epochs": 3})
    report = train(store, config(loss, **settings), tmp_path / "run")
    card, crossing = read_card(report.folder), read_card(report.folder / "bridge")
    old = store.features("toy/old")
    assert card.space.width == width
    assert not comparable(card.space, old.space)
    assert crossing.input_space == card.space
    assert comparable(crossing.space, old.space)
    assert card.training["bridge"] == {"policy": bridge, "from": width, "to": OLD, "run": "bridge"}
    if loss not in ("bct", "mixbct", "bank"):
        return
    apply_map(store, report.folder, "toy/new", "toy/wide")
    apply_map(store, report.folder / "bridge", "toy/wide", "toy/across")
    dataset = store.dataset("toy")
    rows = dataset.select(["split=test"])
    rows = rows[dataset.labels.codes[rows] >= 0]
    labels = dataset.labels.codes[rows]
    across, wide = (store.features(name).gather(rows) for name in ("toy/across", "toy/wide"))
    for query, gallery, key in ((across, old.gather(rows), "cross_test"), (wide, wide, "self_test")):
        measured = evaluate_arrays(
            query, gallery, query_labels=labels, gallery_labels=labels, self_rows=np.arange(len(rows)), metrics=("map",)
        ).mean("map")
        assert measured == pytest.approx(report.validation[key], abs=1e-6)
    if reached:  # over ten seeds chance is 0.21 ± 0.04 on so few rows; padded ones, the least, reach 0.39 ± 0.04
        assert report.validation["cross_test"] > 0.28


@pytest.mark.usefixtures("store")
def test_the_command_line_goes_on_with_commands_that_can_be_pasted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["--store", str(tmp_path / "store")]
    fit = [
        "train",
        "--loss",
        "bct",
        "--old",
        "toy/old",
        "--new",
        "toy/new",
        "--width",
        str(OLD + 4),
        "--bridge",
        "project",
    ]
    assert cli([*fit, "--epochs", "1", "--out", "my runs/wide", *base]) == 0
    make, judge = capsys.readouterr().out.splitlines()[-2:]
    assert cli([*shlex.split(make.removeprefix("next: "))[1:], *base]) == 0
    capsys.readouterr()
    assert cli([*shlex.split(judge)[1:], "--json", *base]) == 0
    assert "mapped-new/old" in [cell["role"] for cell in json.loads(capsys.readouterr().out)["cells"]]


def test_basis_transformation_brings_its_width_and_keeps_to_the_unconstrained_features(store, tmp_path):
    reference = train(store, config("independent", epochs=20, width=10), tmp_path / "independent")
    apply_map(store, reference.folder, "toy/new", "toy/independent")
    basis = {"map": {"name": "basis", "extra": 4}, "epochs": 60, "lr": 0.03, "params": {"keep": 30}}
    report = train(store, config("bt2", side="toy/independent", **basis), tmp_path / "run")
    card = read_card(report.folder)
    assert card.space.width == 14  # the side's and the extra components
    assert card.training["bridge"] == {"policy": "truncate", "from": 14, "to": OLD, "run": "bridge"}
    apply_map(store, report.folder, "toy/new", "toy/bt2")
    body = load_map(report.folder).module.body
    rotation = body.rotation()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(14), atol=1e-5, rtol=0)
    assert (rotation - torch.eye(14)).abs().max() > 0.05
    rows = store.dataset("toy").select(["split=test"])
    mapped, side = (torch.from_numpy(store.features(name).gather(rows)) for name in ("toy/bt2", "toy/independent"))
    with torch.no_grad():
        kept = torch.cosine_similarity(body.second_part(mapped), side)
    assert kept.mean() > 0.85  # 0.96 ± 0.03 over ten seeds
    assert report.validation["cross_test"] > 0.50  # 0.57 ± 0.01
    with pytest.raises(UsageError, match="basis"):
        train(store, config("bt2", map="linear", width=14), tmp_path / "x")
    with pytest.raises(UsageError, match="side"):
        train(store, config("bct", side="toy/new"), tmp_path / "x")


def test_bridges_are_their_matrices():
    feature = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    for policy, old_width in (("truncate", 4), ("pad", 9), ("project", 4), (None, 6)):
        bridge = make_bridge(policy, 6, old_width)
        expected = torch.nn.functional.normalize(bridge(feature), dim=1)
        torch.testing.assert_close(bridge.as_map()(feature), expected)
        old = torch.randn(5, old_width)
        assert bridge.lift(old).shape == bridge.mixing_side(feature).shape == (5, bridge.mixing_width)
    # a mixture is compared as the truncation is: zeros behind the old row change no cosine but by the new row's norm
    truncate = make_bridge("truncate", 6, 4)
    torch.testing.assert_close((truncate.lift(old[:, :4]) * feature).sum(1), (old[:, :4] * truncate(feature)).sum(1))


def test_widths_say_what_they_need(store, tmp_path):
    with pytest.raises(TrainingError, match="width 20") as caught:
        train(store, config("bct", width=20), tmp_path / "run")
    assert f"--width {OLD}" in caught.value.hint
    assert "--bridge truncate" in caught.value.hint
    for bridge, width in (("truncate", OLD), ("pad", OLD + 1)):
        with pytest.raises(TrainingError, match="does not lead"):
            train(store, config("bct", width=width, bridge=bridge), tmp_path / "run")
    with pytest.raises(UsageError, match="independent"):
        train(store, config("independent", bridge="pad"), tmp_path / "run")
    report = train(store, config("independent", width=20, epochs=1), tmp_path / "run")
    assert "cross_test" not in report.validation
