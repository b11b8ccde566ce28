"""Full mode: a backbone trained on images beside cached old features."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import dropout

from featstore.encoders import Augment, Encoder, Preprocess, load_encoder
from featstore.encoders.architectures import ConvNet, ConvNetConfig
from featstore.errors import AlignmentError, BadInputError, TrainingError, UsageError
from featstore.evaluate import evaluate_arrays
from featstore.extract import ExtractRequest, extract
from featstore.runs import read_card
from featstore.sources import NOWHERE
from featstore.spaces import comparable
from featstore.store import Store
from featstore_training import TrainConfig, train
from featstore_training.backbone import Backbone
from featstore_training.images import ImageRows
from featstore_training.recipes import Recipe
from featstore_training.sweep import read_lock, sweep

from .test_train import Listener, assert_equal

CLASSES, EACH = 6, 16
MODEL = {
    "name": "convnet",
    "config": {"in_channels": 1, "widths": [8, 16], "embedding": 12},
    "preprocess": {"size": 12, "channels": 1, "mean": [0.5], "std": [0.25]},
}


def pictures(root):
    """Classes are strokes at an angle, moved about and in noise."""
    draw = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(16) - 7.5, np.arange(16) - 7.5)
    for code in range(CLASSES):
        angle = np.pi * code / CLASSES
        for n in range(EACH):
            distance = across * np.sin(angle) - down * np.cos(angle) + draw.normal()
            values = 220 * np.exp(-(distance**2) / 4) + 25 * draw.random((16, 16))
            path = root / f"c{code}" / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A store whose old set was made by an encoder that was trained in full mode, and the images."""
    folder = tmp_path_factory.mktemp("shop")
    pictures(folder / "images")
    store = Store.init(folder / "store")
    settings = {"loss": "independent", "old": None, "dataset": "strokes"}
    report = train(store, config(folder, **settings), folder / "v1")
    request = ExtractRequest(
        source=str(folder / "images"), dataset="strokes", models={"old": f"run:{report.folder}"}, workers=1
    )
    extract(store, request)
    return store, folder


def config(folder, **changes):
    settings = {"loss": "bct", "old": "strokes/old", "images": str(folder / "images"), "model": MODEL, "epochs": 3}
    settings |= {"batch": 24, "lr": 0.01, "val_fraction": 0.25, "head": {"name": "cosine", "scale": 12}}
    return TrainConfig(**(settings | {"augment": {"area": [0.7, 1], "flip": False}} | changes))


def weights(run):
    return {**load_file(run / "encoder.safetensors"), **load_file(run / "classifier.safetensors")}


def test_a_run_is_an_encoder_whose_features_compare_with_the_old_ones(shop, tmp_path):
    store, folder = shop
    report = train(store, config(folder, epochs=8, seed=1), tmp_path / "v2")
    assert sorted(p.name for p in report.folder.iterdir()) == [
        "card.json",
        "classifier.safetensors",
        "encoder.safetensors",
        "metrics.jsonl",
    ]
    card, old = read_card(report.folder), store.features("strokes/old")
    assert card.kind == "encoder"
    assert set(card.files) == {"encoder.safetensors", "classifier.safetensors"}
    assert card.space.compatible_with == (old.space.digest,)
    assert comparable(card.space, old.space)
    assert card.training["lineage"] == [{"name": "v1", "space": old.space.digest}]
    assert card.training["config"]["augment"]["area"] == [0.7, 1.0]

    models = {"new": f"run:{report.folder}"}
    extract(store, ExtractRequest(source=str(folder / "images"), dataset="strokes", models=models, workers=1))
    new = store.features("strokes/new")
    assert new.space.digest == card.space.digest
    labels = store.dataset("strokes").labels.codes
    found = evaluate_arrays(
        new.gather(new.valid_rows()),
        old.gather(old.valid_rows()),
        query_labels=labels,
        gallery_labels=labels,
        self_rows=np.arange(len(labels)),
        metrics=("map",),
    ).mean("map")
    assert found > 0.6  # six classes: chance is near 1/6
    unrelated = train(store, config(folder, loss="independent", epochs=8, seed=1), tmp_path / "free")
    assert read_card(unrelated.folder).space.compatible_with == ()
    assert report.validation["cross_test"] > unrelated.validation["cross_test"] + 0.2


@pytest.mark.parametrize("loss", ["bct", "mixbct", "odpp"])
def test_a_resumed_run_reaches_the_same_weights(shop, tmp_path, loss):
    store, folder = shop
    whole = train(store, config(folder, loss=loss, workers=0), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(store, config(folder, loss=loss), tmp_path / "broken", progress=Listener(stop_after=2))
    finished = train(store, config(folder, loss=loss), tmp_path / "broken")
    assert finished.resumed_at == 2
    assert_equal(weights(whole.folder), weights(finished.folder))
    assert train(store, config(folder, loss=loss), tmp_path / "broken").cached
    terms = json.loads((whole.folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert "classification" in terms


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains_a_backbone_that_stays_in_float32(shop, tmp_path, amp):
    store, folder = shop
    report = train(store, config(folder, amp=amp), tmp_path / "run")
    assert {tensor.dtype for tensor in weights(report.folder).values()} <= {torch.float32, torch.int64}
    assert report.validation["self_test"] > 0.3  # six classes: chance is near 1/6


def test_a_network_that_draws_for_itself_resumes_to_the_same_weights(shop, tmp_path, monkeypatch):
    store, folder = shop
    plain = ConvNet.forward
    monkeypatch.setattr(ConvNet, "forward", lambda self, x: dropout(plain(self, x), 0.5, training=self.training))
    whole = train(store, config(folder), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(store, config(folder), tmp_path / "broken", progress=Listener(stop_after=1))
    torch.rand(3)
    assert_equal(weights(whole.folder), weights(train(store, config(folder), tmp_path / "broken").folder))


def test_a_backbone_may_start_from_a_run_and_bridge_to_another_width(shop, tmp_path):
    store, folder = shop
    start = f"run:{folder / 'v1'}"
    report = train(store, config(folder, model=start, epochs=1, lr=1e-6), tmp_path / "tuned")
    before, after = load_file(folder / "v1" / "encoder.safetensors"), load_file(tmp_path / "tuned/encoder.safetensors")
    torch.testing.assert_close(after["project.weight"], before["project.weight"], atol=1e-4, rtol=0)
    assert not torch.equal(after["project.weight"], before["project.weight"])
    assert report.validation["cross_test"] > 0.6
    wide = {**MODEL, "config": {**MODEL["config"], "embedding": 20}}
    with pytest.raises(TrainingError, match="width 20"):
        train(store, config(folder, model=wide), tmp_path / "x")
    bridged = train(store, config(folder, model=wide, bridge="truncate", epochs=1), tmp_path / "wide")
    assert comparable(read_card(bridged.folder / "bridge").space, store.features("strokes/old").space)
    assert load_encoder(str(bridged.folder)).width == 20


def test_the_old_model_may_be_gone_and_rows_are_found_by_id(shop, tmp_path):
    store, folder = shop
    moved = tmp_path / "elsewhere"
    (folder / "images").rename(moved)
    try:
        report = train(store, config(folder, images=str(moved), epochs=1), tmp_path / "run")
        (moved / "c0" / "0.png").rename(tmp_path / "0.png")
        with pytest.raises(AlignmentError, match="1 of its 96 images are not there"):
            train(store, config(folder, images=str(moved), epochs=1), tmp_path / "run2")
    finally:
        (tmp_path / "0.png").rename(moved / "c0" / "0.png")
        moved.rename(folder / "images")
    assert report.rows + report.validation_rows == CLASSES * EACH


def test_errors_say_what_helps(shop, tmp_path):
    store, folder = shop
    out = tmp_path / "run"
    for changes, words in (
        ({"model": None}, "no model"),
        ({"model": {**MODEL, "preprocess": None}}, "how images become"),
        ({"model": {**MODEL, "preprocess": {"size": 12}}}, "cannot take images of 3×12×12"),
        ({"model": {"name": f"run:{folder / 'v1'}", "normalise": True}}, "brings its own normalise"),
        ({"model": "python:tests.training.test_full_mode:homemade"}, "architecture 'homemade'"),
        ({"old": None, "loss": "independent"}, "which dataset"),
        ({"dataset": "toys"}, "not of dataset toys"),
        ({"map": "mlp"}, "'map' means nothing in full mode"),
        ({"new": "strokes/old"}, "'new' means nothing in full mode"),
        ({"images": None, "new": "strokes/old"}, "'augment' means nothing in head mode"),
        ({"images": None}, "what the new side is"),
        ({"width": 5, "bridge": "pad"}, "width 12, not 5"),
        ({"augment": {"area": [0, 1]}}, "area"),
    ):
        with pytest.raises(UsageError, match=words):
            train(store, config(folder, **changes), out)
    assert not out.exists()


def homemade():
    """An encoder of an architecture that only this module knows."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 12))
    return Encoder(network, Preprocess(size=12, channels=1), architecture="homemade")


def test_images_are_read_augmented_and_kept(tmp_path):
    class Counting:
        reads = 0

        def read(self, id_):
            self.reads += 1
            return (tmp_path / id_).read_bytes()

    draw = np.random.default_rng(1)
    for n in range(4):
        Image.fromarray(draw.integers(0, 256, (10, 14), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    preprocess, source = Preprocess(size=8, channels=1), Counting()
    ids = ["0.png", "1.png", "2.png", "3.png"]
    rows = ImageRows(
        source,
        [(id_, NOWHERE) for id_ in ids],
        preprocess,
        Augment(angle=20, brightness=0.3),
        seed=3,
        workers=1,
        resident_bytes=300,
    )
    positions = np.array([2, 0, 3])
    first = rows.training(positions, 0)
    assert first.shape == (3, 1, 8, 8)
    assert torch.equal(first, rows.training(positions, 0))
    assert torch.equal(first[1:], rows.training(positions[1:], 0))  # a view never depends on its neighbours
    assert not torch.equal(first, rows.training(positions, 1))
    clean = torch.cat([block for _, block in rows.blocks()])
    expected = [preprocess.apply(Image.open(tmp_path / id_)) for id_ in ids]
    np.testing.assert_array_equal(clean, np.stack(expected))
    before = source.reads
    rows.take(np.arange(4))
    assert source.reads - before == 2  # two of four fit into 300 bytes
    assert rows.training(np.array([], dtype=np.int64), 0).shape == (0, 1, 8, 8)
    broken = ImageRows(source, [("bad.png", NOWHERE)], preprocess, None, seed=0, workers=0)
    with pytest.raises(BadInputError, match=r"bad\.png cannot be trained on"):
        broken.take(np.array([0]))


def test_basis_transformation_stands_on_the_backbone_and_its_first_components_compare(shop, tmp_path):
    store, folder = shop
    settings = {"loss": "bt2", "map": {"name": "basis", "extra": 4}, "params": {"keep": 30}, "side": "strokes/old"}
    report = train(store, config(folder, epochs=6, **settings), tmp_path / "run")
    card = read_card(report.folder)
    assert card.architecture["name"] == "rotated"
    assert card.training["bridge"] == {"policy": "truncate", "from": 16, "to": 12, "run": "bridge"}
    assert comparable(read_card(report.folder / "bridge").space, store.features("strokes/old").space)
    assert report.validation["cross_test"] > 0.4  # six classes: chance is near 1/6
    encoder = load_encoder(str(report.folder))
    again = train(store, config(folder, **{**settings, "model": f"run:{report.folder}"}, epochs=1), tmp_path / "again")
    assert (encoder.width, load_encoder(str(again.folder)).width) == (16, 16)
    pixels = torch.rand(5, 1, 12, 12)
    with torch.no_grad():
        parts = encoder.module(pixels) @ encoder.module.body.rotation()
    torch.testing.assert_close(parts.square().split([4, 12], dim=1)[1].sum(dim=1), torch.full((5,), 4.0))
    with pytest.raises(UsageError, match="nothing beside a first part"):
        train(store, config(folder, width=4, **settings), tmp_path / "x")
    with pytest.raises(UsageError, match="'map' means nothing"):
        train(store, config(folder, loss="bt2", map="linear"), tmp_path / "x")


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_see_the_layout_that_cpus_prefer(channels):
    network = ConvNet(ConvNetConfig(in_channels=channels, widths=(8, 8), embedding=4))
    layouts = []
    network.stages[0].register_forward_hook(
        lambda _, __, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    pixels = torch.rand(3, channels, 12, 12)
    seen, plain = Backbone(network, normalise=False)(pixels), network(pixels.contiguous())
    assert layouts[0]
    torch.testing.assert_close(seen, plain)


def test_a_sweep_tries_settings_of_backbones(shop, tmp_path):
    store, folder = shop
    base = config(folder, epochs=1).model_dump(mode="json", exclude_unset=True)
    recipe = Recipe(base=base, grid={"model.config.widths": [[8, 16], [4, 8]], "augment.angle": [0, 15]}, seeds=(0,))
    report = sweep(store, recipe, tmp_path / "sweep")
    assert report.runs == 4
    lock = read_lock(tmp_path / "sweep" / "sweep.lock")
    assert lock.settings["model"]["config"]["widths"] == report.chosen.settings["model.config.widths"]
    assert not {"images", "dataset", "old"} & lock.settings.keys()
    assert sweep(store, recipe, tmp_path / "sweep").cached == 4
