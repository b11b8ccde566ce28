"""SimCLR: its loss as plain loops, and a side encoder from unlabelled images that fct takes as side-information."""

import json

import numpy as np
import pytest
import torch

from featstore.errors import UsageError
from featstore.evaluate import evaluate_arrays
from featstore.extract import ExtractRequest, extract
from featstore.runs import read_card
from featstore.store import Store
from featstore_cli.main import run as cli
from featstore_training import AdapterConfig, TrainConfig, fit_adapter, train
from featstore_training.objectives.simclr import two_view_loss
from featstore_training.recipes import find_recipe, merged

from .test_full_mode import CLASSES, EACH, MODEL, pictures


def by_definition(first, second, temperature):
    views = [*first, *second]
    unit = [view / view.norm() for view in views]
    terms = []
    for i in range(len(views)):
        other = (i + len(first)) % len(views)
        alike = [torch.exp(unit[i] @ unit[k] / temperature) for k in range(len(views))]
        terms.append(-torch.log(alike[other] / sum(alike[k] for k in range(len(views)) if k != i)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_gradient_by_definition(temperature):
    draw = torch.Generator().manual_seed(0)
    views = [torch.randn(7, 5, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2)]
    found, expected = two_view_loss(*views, temperature), by_definition(*views, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, views), torch.autograd.grad(expected, views))
    swapped = two_view_loss(views[1], views[0], temperature)
    torch.testing.assert_close(swapped, found)
    order = torch.randperm(7, generator=draw)
    torch.testing.assert_close(two_view_loss(views[0][order], 3 * views[1][order], temperature), found)


def config(folder, **changes):
    recipe = find_recipe("simclr").base
    small = {"images": str(folder / "images"), "dataset": "strokes", "model": MODEL, "epochs": 10, "batch": 48}
    small |= {"lr": 1e-2, "augment": {"area": (0.6, 1.0), "flip": False, "brightness": 0.2}}
    return TrainConfig(**merged({**recipe, **small}, changes))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    pictures(folder / "images")
    return folder, Store.init(folder / "store")


def test_a_side_encoder_from_images_without_labels(shop, tmp_path):
    folder, store = shop
    report = train(store, config(folder), tmp_path / "side")
    assert (report.classes, report.rows, report.validation_rows, report.validation) == (0, CLASSES * EACH, 0, {})
    assert "the last epoch is kept" in report.notes[0]
    lines = [json.loads(line) for line in (tmp_path / "side" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"]["contrast"] < lines[0]["loss"]["contrast"]
    models = {"side": f"run:{tmp_path / 'side'}"}
    extract(store, ExtractRequest(source=str(folder / "images"), dataset="strokes", models=models, workers=1))
    side = store.features("strokes/side")
    rows = np.arange(side.rows)
    untrained = train(store, config(folder, epochs=1, lr=1e-9), tmp_path / "before")
    extract(
        store,
        ExtractRequest(
            source=str(folder / "images"), dataset="strokes", models={"before": f"run:{untrained.folder}"}, workers=1
        ),
    )
    labels = side.dataset.labels.codes.astype(np.int64)

    def quality(name):
        found = store.features(f"strokes/{name}").gather(rows)
        return evaluate_arrays(
            found, found, query_labels=labels, gallery_labels=labels, self_rows=rows, metrics=("map",)
        ).mean("map")

    assert quality("side") > quality("before") + 0.02
    # it serves as side-information
    fit = AdapterConfig(
        loss="fct", old="strokes/before", new="strokes/side", side=("strokes/side",), params={"hidden": 16, "epochs": 2}
    )
    fit_adapter(store, fit, tmp_path / "up")
    assert [space.name for space in read_card(tmp_path / "up").side_spaces] == ["side"]


def test_a_resumed_run_reaches_the_same_weights(shop, tmp_path):
    folder, store = shop

    class Stops:
        done = 0

        def start(self, task, total, unit, *, done=0): ...

        def advance(self, n):
            self.done += n
            if self.done == 2:
                raise KeyboardInterrupt

        def note(self, message): ...

    train(store, config(folder, epochs=4), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(store, config(folder, epochs=4), tmp_path / "broken", progress=Stops())
    train(store, config(folder, epochs=4), tmp_path / "broken")
    files = [read_card(tmp_path / name).files["encoder.safetensors"] for name in ("whole", "broken")]
    assert files[0] == files[1]


def test_it_needs_two_views_of_images(shop, tmp_path, capsys):
    folder, store = shop
    train(store, config(folder, epochs=1), tmp_path / "run")
    with pytest.raises(UsageError, match="two random views"):
        train(store, config(folder, augment=None), tmp_path / "other")
    models = {"plain": f"run:{tmp_path / 'run'}"}
    extract(store, ExtractRequest(source=str(folder / "images"), dataset="strokes", models=models, workers=1))
    assert (
        cli(["train", "--loss", "simclr", "--new", "strokes/plain", "--out", "x", "--store", str(folder / "store")])
        == 2
    )
    assert "--recipe simclr" in capsys.readouterr().err


def test_a_sweep_has_nothing_to_choose_by_and_says_so_before_it_trains(shop, tmp_path, monkeypatch, capsys):
    folder, _ = shop
    monkeypatch.setenv("FEATSTORE_STORE", str(folder / "store"))
    options = ["--images", str(folder / "images"), "--dataset", "strokes", "--out", str(tmp_path / "sweep")]
    assert cli(["train", "--sweep", "simclr", *options]) == 2
    said = capsys.readouterr().err
    assert "reads no labels" in said
    assert "featstore train --recipe simclr" in said
    assert not (tmp_path / "sweep").exists()
