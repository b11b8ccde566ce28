"""Models of other libraries by URI: their own preprocessing, their own features, as run folders and exports."""

import json
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from featstore.encoders import Encoder, Preprocess, build_architecture, export_encoder, load_encoder, save_encoder
from featstore.encoders._torchvision import allow_torchvision
from featstore.encoders.model_options import from_image_processor, read_preprocess
from featstore.errors import (
    AlreadyExistsError,
    BadInputError,
    FeatstoreError,
    NotFoundError,
    UnknownNameError,
    UntrustedError,
    UsageError,
)
from featstore.spaces import comparable

# these libraries warn about their own use of torch while they are imported and export
pytestmark = pytest.mark.filterwarnings("default")

SIZES = [(50, 40), (40, 51), (33, 90), (300, 31)]


def need(package):
    """Skip where a package is missing, without importing it: torchvision has to be let in first."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


def batch(encoder):
    return np.stack([encoder.preprocess.apply(image) for image in pictures()])


@pytest.fixture(scope="module")
def timm():
    need("timm")
    allow_torchvision()
    import timm

    return timm


@pytest.fixture(scope="module")
def transformers():
    need("transformers")
    allow_torchvision()
    import transformers

    return transformers


@pytest.fixture(scope="module")
def resnet(timm, tmp_path_factory):
    """A model of timm with random weights in files, with its classifier as people have it."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=7).eval()
    save_file(model.state_dict(), folder / "w.safetensors")
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, folder / "w.pt")
    return model, folder


def test_timm_gives_what_timm_gives(timm, resnet):
    model, folder = resnet
    encoder = load_encoder(f"timm:test_resnet?weights={folder}/w.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    images = torch.stack([transform(image) for image in pictures()])
    np.testing.assert_allclose(batch(encoder), images.numpy(), atol=1e-5)
    with torch.inference_mode():
        wanted = model.forward_head(model.forward_features(images), pre_logits=True).numpy()
    np.testing.assert_allclose(encoder.encode(batch(encoder)), wanted, atol=1e-5)
    assert load_encoder(f"timm:test_resnet?weights={folder}/w.pt").space == encoder.space
    encoder.check(batch(encoder))


def test_timm_models_become_run_folders_and_train(timm, resnet, tmp_path):
    assert timm
    encoder = load_encoder(f"timm:test_resnet?weights={resnet[1]}/w.safetensors")
    save_encoder(tmp_path / "run", encoder)
    again = load_encoder(str(tmp_path / "run"))
    assert again.space.digest == encoder.space.digest
    np.testing.assert_array_equal(again.encode(batch(again)), encoder.encode(batch(encoder)))


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("timm:resnot18", UnknownNameError, "did you mean"),
        ("timm:test_resnet?wieghts=x", UnknownNameError, "weights"),
        ("timm:test_resnet?weights=nowhere.pt", NotFoundError, "nowhere.pt"),
        ("timm:test_vit?weights={folder}/w.safetensors", BadInputError, "another network"),
        ("timm:test_resnet?weights={folder}/evil.pt", BadInputError, "plain tensors"),
        ("timm:test_resnet?weights={folder}/text.safetensors", BadInputError, "plain tensors"),
    ],
)
def test_timm_models_that_are_not_there(uri, error, said, timm, resnet):
    assert timm
    folder = resnet[1]
    torch.save({"w": torch.zeros(1), "run": _Trap()}, folder / "evil.pt")
    (folder / "text.safetensors").write_text("no weights")
    with pytest.raises(error) as caught:
        load_encoder(uri.format(folder=folder))
    assert said in str(caught.value)


class _Trap:
    """Runs a function when it is unpickled."""

    def __reduce__(self):
        return (print, ("executed",))


def test_without_a_network_the_hub_says_what_to_do(timm, monkeypatch):
    def unreachable(*_, **options):
        if options.get("pretrained"):
            raise OSError("cannot reach the hub")
        raise AssertionError

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(FeatstoreError) as caught:
        load_encoder("timm:test_resnet")
    assert "weights=FILE" in caught.value.hint


def save_vit(transformers, folder, *, pooler=True, **processor):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=pooler).eval().save_pretrained(folder)
    fields = {
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "image_mean": [0.5] * 3,
    } | processor
    (folder / "preprocessor_config.json").write_text(json.dumps(fields | {"image_std": [0.5] * 3}))


@pytest.mark.parametrize(("pooler", "pooling"), [(True, None), (False, None), (True, "cls"), (False, "mean")])
def test_transformers_give_what_transformers_give(transformers, tmp_path, pooler, pooling):
    save_vit(transformers, tmp_path / "vit", pooler=pooler)
    encoder = load_encoder(f"hf:{tmp_path}/vit" + (f"?pooling={pooling}" if pooling else ""))
    model = transformers.ViTModel.from_pretrained(tmp_path / "vit", add_pooling_layer=pooler).eval()
    images = torch.from_numpy(batch(encoder))
    with torch.inference_mode():
        output = model(pixel_values=images)
    wanted = output.pooler_output if pooler and not pooling else output.last_hidden_state[:, 0]
    if pooling == "mean":
        wanted = output.last_hidden_state.mean(dim=1)
    np.testing.assert_allclose(encoder.encode(images.numpy()), wanted.numpy(), atol=1e-5)
    assert load_encoder(f"hf:{tmp_path}/vit" + (f"?pooling={pooling}" if pooling else "")).space == encoder.space
    encoder.check(images.numpy())
    save_encoder(tmp_path / "run", encoder)
    again = load_encoder(str(tmp_path / "run"))
    np.testing.assert_allclose(again.encode(images.numpy()), encoder.encode(images.numpy()), atol=1e-6)


def test_transformers_preprocess_as_their_processor(transformers, tmp_path):
    fields = {
        "do_resize": True, "size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32},
        "resample": 3, "do_normalize": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    processor = transformers.CLIPImageProcessor(**fields)
    wanted = processor([*pictures()], return_tensors="np")["pixel_values"]
    ours = np.stack([read_preprocess(tmp_path / "preprocessor_config.json").apply(image) for image in pictures()])
    # its fast version resizes tensors, which rounds a few pixels to the neighbouring grey value
    assert np.abs(ours - wanted).max() <= 2.5 / 255 / 0.26


@pytest.mark.parametrize(
    "fields",
    [
        {"do_resize": False},
        {"size": {"height": 20, "width": 30}},
        {"size": {"shortest_edge": 20}, "do_center_crop": False},
        {"size": {"longest_edge": 20}},
    ],
)
def test_processors_that_make_no_square(fields):
    with pytest.raises(UsageError) as caught:
        from_image_processor(fields)
    assert "preprocess=FILE" in caught.value.hint


def test_scaling_factors_become_mean_and_std():
    found = from_image_processor(
        {"size": 8, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}
    )
    white = Image.new("RGB", (8, 8), (255, 255, 255))
    np.testing.assert_allclose(found.apply(white), 1.0, atol=1e-6)
    assert from_image_processor({"size": 8, "do_normalize": False}).mean == (0, 0, 0)


def test_transformers_that_are_not_there(transformers, tmp_path):
    (tmp_path / "empty").mkdir()
    for uri, error in ((f"hf:{tmp_path}/empty", NotFoundError), (f"hf:{tmp_path}/nowhere", NotFoundError)):
        with pytest.raises(error):
            load_encoder(uri)
    save_vit(transformers, tmp_path / "vit")
    with pytest.raises(UsageError, match="no pooling 'max'"):
        load_encoder(f"hf:{tmp_path}/vit?pooling=max")
    (tmp_path / "vit/preprocessor_config.json").unlink()
    with pytest.raises(NotFoundError, match="preprocessor_config"):
        load_encoder(f"hf:{tmp_path}/vit")


def small():
    config = {"in_channels": 3, "widths": [4, 8], "embedding": 6}
    module = build_architecture("convnet", config, seed=0)
    return Encoder(module, Preprocess(size=16, mean=(0.5,) * 3), architecture="convnet", config=config, normalise=True)


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_exports_carry_preprocessing_and_give_the_same_features(ending, tmp_path):
    if ending == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    encoder = small()
    file = tmp_path / f"net.{ending}"
    assert export_encoder(encoder, file) < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    uri = f"onnx:{file}" if ending == "onnx" else f"export:{file}"
    again = load_encoder(uri)
    assert again.preprocess == encoder.preprocess
    assert comparable(again.space, encoder.space)
    assert again.space.digest != encoder.space.digest
    assert load_encoder(uri).space == again.space
    for some in (batch(encoder), batch(encoder)[:1], np.tile(batch(encoder), (3, 1, 1, 1))):
        np.testing.assert_allclose(again.encode(some), encoder.encode(some), atol=1e-5)
    again.check(batch(again))
    with pytest.raises(AlreadyExistsError):
        export_encoder(encoder, file)
    with pytest.raises(UsageError, match="is no format"):
        export_encoder(encoder, tmp_path / "net.h5")


def test_foreign_onnx_files_need_to_be_told_their_preprocessing(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(small().module, (torch.zeros(2, 3, 16, 16),), tmp_path / "net.onnx", dynamo=True, verbose=False)
    with pytest.raises(UsageError, match="nothing says how images become input"):
        load_encoder(f"onnx:{tmp_path}/net.onnx")
    (tmp_path / "p.json").write_text(Preprocess(size=16, mean=(0.5,) * 3).model_dump_json())
    encoder = load_encoder(f"onnx:{tmp_path}/net.onnx?preprocess={tmp_path}/p.json")
    # the file fixes a batch of 2: other numbers of images are cut and filled up
    plain = Encoder(small().module, encoder.preprocess, architecture="convnet")
    for count in (1, 2, 3, 4):
        some = batch(encoder)[:count]
        np.testing.assert_allclose(encoder.encode(some), plain.encode(some), atol=1e-5)
    with pytest.raises(UnknownNameError, match="output"):
        load_encoder(f"onnx:{tmp_path}/net.onnx?preprocess={tmp_path}/p.json&output=logits")


@pytest.mark.parametrize(("kind", "ending"), [("onnx", "onnx"), ("export", "pt2")])
def test_files_that_are_no_networks(kind, ending, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    (tmp_path / f"a.{ending}").write_text("<html>")
    with pytest.raises(BadInputError):
        load_encoder(f"{kind}:{tmp_path}/a.{ending}")
    with pytest.raises(NotFoundError):
        load_encoder(f"{kind}:{tmp_path}/b.{ending}")


def test_pickles_in_an_exported_program_are_refused(tmp_path, capsys):
    import io
    import pickle

    file = tmp_path / "net.pt2"
    export_encoder(small(), file)
    stream = io.BytesIO()
    torch.save(_Trap(), stream)
    with zipfile.ZipFile(file) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    sample = next(name for name in contents if "sample_inputs" in name)
    config = next(name for name in contents if "weights" in name and name.endswith("_config.json"))
    flagged = json.loads(contents[config])
    next(iter(flagged["config"].values()))["use_pickle"] = True
    root = sample.split("/")[0]
    for changed in (
        {sample: stream.getvalue()},
        {config: json.dumps(flagged).encode()},
        {f"{root}/data/constants/custom_obj_0": pickle.dumps(_Trap())},
    ):
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in (contents | changed).items():
                archive.writestr(name, data)
        with pytest.raises(UntrustedError):
            load_encoder(f"export:{file}")
    assert "executed" not in capsys.readouterr().out


def test_torchvision_imports_in_a_fresh_process_too():
    import subprocess
    import sys

    need("timm")
    code = (
        "from featstore.encoders._torchvision import allow_torchvision as allow; allow(); allow(); "
        "import timm, torchvision.transforms.v2"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


class Unexportable(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4] * (1 if float(images.sum()) > 0 else 2)


def test_networks_that_cannot_be_exported_are_named(tmp_path):
    encoder = Encoder(Unexportable(), Preprocess(size=8), architecture="odd")
    with pytest.raises(UsageError, match="cannot export odd"):
        export_encoder(encoder, tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())
