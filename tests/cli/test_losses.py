"""Every loss that is registered, as a user types it, in head mode and in full mode."""

import json

import pytest

from featstore_cli.main import run
from featstore_training import adapter_infos, losses
from tests.training.test_full_mode import MODEL, pictures

LABELLED = [info.name for info in losses() if "label" in info.needs]
LABEL_FREE = [info.name for info in losses() if "label" not in info.needs]
ADAPTERS = [info.name for info in adapter_infos()]
SHORT = ["--epochs", "1", "--set", "batch=48"]
BACKBONE = ["--images", "images", "--model", "convnet", "--set", "augment.flip=false", "--set", "workers=0"]
BACKBONE += [f"--set=model.{key}={json.dumps(MODEL[key])}" for key in ("config", "preprocess")]
SPECIAL = {"cores": ["--set", "head.name=simplex", "--set", "head.capacity=13"], "bt2": ["--set", "map.extra=4"]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Images, and two generations trained on them with their features."""
    folder = tmp_path_factory.mktemp("shop")
    pictures(folder / "images")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("COLUMNS", "80")
    assert run(["init"]) == 0
    for seed, name in enumerate(("v1", "v2")):
        first = ["--loss", "independent", "--dataset", "strokes", "--seed", str(seed), "--out", name]
        assert run(["train", *first, *BACKBONE, *SHORT]) == 0
    models = [f"--model={name}=run:{name}" for name in ("v1", "v2")]
    assert run(["extract", "images", "--dataset", "strokes", *models, "--workers", "1"]) == 0
    yield folder
    patch.undo()


def train(tmp_path, loss, *sides):
    """Exit status and, if it worked, the card."""
    status = run(["train", "--loss", loss, *sides, *SPECIAL.get(loss, []), "--out", str(tmp_path / "run")])
    return status, json.loads((tmp_path / "run" / "card.json").read_text()) if status == 0 else None


def sides(loss, *new):
    """Old and new side; `cores` begins a chain, and generations after it need what came before."""
    old = [] if loss == "cores" else ["--old", "strokes/v1", "--old-run", "v1"]
    return [*old, *new, *SHORT]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("loss", LABELLED)
def test_every_objective_trains_a_map_on_cached_features(tmp_path, loss):
    status, card = train(tmp_path, loss, *sides(loss, "--new", "strokes/v2"))
    assert (status, card["kind"], card["training"]["config"]["loss"]) == (0, "map", loss)


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("loss", [info.name for info in losses()])
def test_every_objective_trains_a_backbone_on_images(tmp_path, loss):
    dataset = ["--dataset", "strokes"] if loss == "cores" else []
    status, card = train(tmp_path, loss, *sides(loss, *dataset, *BACKBONE))
    assert (status, card["kind"], card["training"]["config"]["loss"]) == (0, "encoder", loss)
    compares = loss not in ("independent", "cores", "simclr", "bt2")  # the bridge of `bt2` is what compares
    assert bool(card["space"]["compatible_with"]) == compares


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("loss", LABEL_FREE)
def test_what_compares_views_of_images_says_that_it_needs_them(tmp_path, capsys, loss):
    assert train(tmp_path, loss, *sides(loss, "--new", "strokes/v2")) == (2, None)
    assert "--images" in capsys.readouterr().err


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("loss", ADAPTERS)
def test_every_adapter_learns_from_cached_features_and_says_that_it_has_no_full_mode(tmp_path, capsys, loss):
    new_run = ["--new-run", "v2"] if loss == "fastfill" else []
    epochs = ["--epochs", "2"] if loss in ("fct", "fastfill", "mlp") else []
    status, card = train(tmp_path, loss, "--old", "strokes/v1", "--new", "strokes/v2", *new_run, *epochs)
    assert (status, card["kind"]) == (0, "map")
    assert train(tmp_path / "full", loss, "--old", "strokes/v1", *BACKBONE) == (2, None)
    assert "no full mode" in capsys.readouterr().err
