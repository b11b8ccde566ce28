"""Maps as modules and as run folders."""

import json
import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from featstore.errors import (
    AlignmentError,
    AlreadyExistsError,
    CorruptStoreError,
    NonFiniteError,
    NotFoundError,
    UnknownNameError,
    UsageError,
)
from featstore.maps import AffineConfig, BasisConfig, LinearConfig, MapConfig, MlpConfig, build_map, load_map, save_map
from featstore.runs import write_card
from featstore.spaces import Space

SPACE = Space.named("backbone", 6)
CONFIGS = [
    LinearConfig(),
    LinearConfig(normalise=False),
    MlpConfig(hidden=9),
    MlpConfig(hidden=9, activation="gelu", normalise=False),
    BasisConfig(extra=1, normalise=False),
    BasisConfig(extra=3),
]


def fitted(config, width=6, out=4):
    torch.manual_seed(0)
    module = build_map(config, width, out)
    if isinstance(config, BasisConfig):
        torch.nn.init.normal_(module.body.skew)
    generator = np.random.default_rng(0)
    module.fit_input(generator.normal(size=width), generator.uniform(0.5, 2, size=width))
    return module


def saved(folder, config=CONFIGS[0], **changes):
    module = fitted(config)
    options = {
        "config": config,
        "input_space": SPACE,
        "name": "mapped",
        "compatible_with": ("ab",),
        "training": {"s": 1},
    }
    return module, save_map(folder, module, **{**options, **changes})


def edit_card(folder, change):
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def expm(matrix):
    """Σ Mᵏ/k!, by squaring what is small enough for a few terms."""
    small, term, total = matrix / 1024, np.eye(len(matrix)), np.eye(len(matrix))
    for k in range(1, 12):
        term = term @ small / k
        total = total + term
    for _ in range(10):
        total = total @ total
    return total


def test_parts_need_room():
    with pytest.raises(AlignmentError, match="first part of 4"):
        build_map(BasisConfig(extra=4), 6, 4)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_forward_is_its_definition(config):
    module = fitted(config)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    x = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
    z = (x - weights["mean"]) / weights["std"]
    if isinstance(config, LinearConfig):
        out = z @ weights["body.weight"].T + weights["body.bias"]
    elif isinstance(config, BasisConfig):
        parts = z @ weights["body.linear.weight"].T + weights["body.linear.bias"]
        u, v = np.split(parts, [config.extra], axis=1)
        u, v = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (u, v))
        skew = weights["body.skew"] - weights["body.skew"].T
        out = np.hstack([u, config.ratio * v]) @ expm(skew).T
    else:
        h = z @ weights["body.0.weight"].T + weights["body.0.bias"]
        h = np.maximum(h, 0) if config.activation == "relu" else h * 0.5 * (1 + np.vectorize(math.erf)(h / np.sqrt(2)))
        out = h @ weights["body.2.weight"].T + weights["body.2.bias"]
    if config.normalise:
        out /= np.linalg.norm(out, axis=1, keepdims=True)
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), out, atol=4e-6)


def test_input_statistics():
    module = build_map(LinearConfig(), 4, 3)
    x = torch.randn(5, 4)
    plain = torch.nn.functional.normalize(module.body(x))
    torch.testing.assert_close(module(x), plain)  # nothing is standardised before fit_input
    # constant inputs: exactly, and up to what rounding of float32 leaves
    module.fit_input(np.array([0.0, 1.0, 5.0, 100.0]), np.array([2.0, 0.0, 1e-3, 1e-6]))
    assert module.std.tolist() == [2.0, 1.0, pytest.approx(1e-3), 1.0]
    assert module.mean.tolist() == [0.0, 1.0, 5.0, 100.0]
    with pytest.raises(AlignmentError, match="4 inputs"):
        module.fit_input(torch.zeros(3), torch.ones(3))
    for mean, std in ((float("nan"), 1.0), (0.0, float("inf")), (0.0, -1.0)):
        with pytest.raises(NonFiniteError):
            module.fit_input(torch.full((4,), mean), torch.full((4,), std))


def test_a_config_is_data_with_known_keys_only():
    read = TypeAdapter(MapConfig).validate_python
    assert read({"name": "mlp", "hidden": 3}) == MlpConfig(hidden=3)
    for wrong in ({"name": "lineer"}, {"name": "linear", "hidden": 3}, {"name": "mlp", "hidden": 0}):
        with pytest.raises(ValidationError):
            read(wrong)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_a_saved_map_comes_back_exactly(tmp_path, config):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    module, card = saved(tmp_path, config, extra_files=["metrics.jsonl"])
    loaded = load_map(tmp_path)
    x = torch.randn(11, 6)
    assert torch.equal(loaded.module(x), module(x))
    assert not loaded.module.training
    assert loaded.module.config == config
    assert loaded.card == card
    assert loaded.input_space == SPACE
    assert set(card.files) == {"map.safetensors", "metrics.jsonl"}
    assert (loaded.space.name, loaded.space.width, loaded.space.compatible_with) == ("mapped", 4, ("ab",))
    identity = loaded.space.identity
    assert (identity["kind"], identity["architecture"], identity["input"]) == ("map", config.name, SPACE.digest)
    assert identity["normalise"] == ("l2" if config.normalise else "none")


def test_the_digest_is_of_everything_that_decides_the_output(tmp_path):
    digests = set()
    for number, config in enumerate([MlpConfig(hidden=9), MlpConfig(hidden=9, activation="gelu"), MlpConfig(hidden=9)]):
        module = fitted(config)
        if number == 2:
            module.fit_input(torch.zeros(6), torch.full((6,), 3.0))  # the weights stay, the statistics change
        card = save_map(
            tmp_path / str(number),
            module,
            config=config,
            input_space=SPACE,
            name="m",
            compatible_with=(),
            training={},
        )
        digests.add(card.space.identity["map"])
    assert len(digests) == 3
    _, again = saved(tmp_path / "again", MlpConfig(hidden=9), name="other")
    assert again.space.identity["map"] in digests


def test_a_run_folder_holds_json_and_safetensors_only(tmp_path):
    """Invariant 5: nothing in a map can execute code."""
    saved(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "map.safetensors"]
    data = (tmp_path / "map.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert sum(np.prod(entry["shape"]) * 4 for entry in header.values()) + 8 + int.from_bytes(
        data[:8], "little"
    ) == len(data)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["architecture"] == {"name": "linear", "config": {"normalise": True}, "in_width": 6, "out_width": 4}
    assert str(tmp_path) not in json.dumps(card)


def test_a_pickle_in_the_place_of_the_weights_is_refused(tmp_path):
    module, card = saved(tmp_path)
    torch.save(module.state_dict(), tmp_path / "map.safetensors")
    write_card(tmp_path, card)  # a card that vouches for it
    with pytest.raises(CorruptStoreError, match=r"map\.safetensors cannot be read"):
        load_map(tmp_path)


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_byte_is_refused(tmp_path, position):
    saved(tmp_path)
    data = bytearray((tmp_path / "map.safetensors").read_bytes())
    data[position] ^= 1
    (tmp_path / "map.safetensors").write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"map\.safetensors"):
        load_map(tmp_path)


def test_weights_of_another_map_are_refused_though_the_card_vouches_for_them(tmp_path):
    _, card = saved(tmp_path / "a")
    other = fitted(CONFIGS[0])
    other.fit_input(torch.ones(6), torch.ones(6))
    save_map(tmp_path / "b", other, config=CONFIGS[0], input_space=SPACE, name="m", compatible_with=(), training={})
    (tmp_path / "a" / "map.safetensors").write_bytes((tmp_path / "b" / "map.safetensors").read_bytes())
    write_card(tmp_path / "a", card)
    with pytest.raises(CorruptStoreError, match="another map"):
        load_map(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c["architecture"].update(name="mpl"), UnknownNameError, "did you mean mlp"),
        (
            lambda c: c["architecture"].update(name="os.system"),
            UnknownNameError,
            "there is: affine, basis, branches, linear, mixture, mlp, posterior, residual, slerp",
        ),
        (lambda c: c["architecture"]["config"].update(hook="os"), UsageError, "'hook'"),
        (lambda c: c["architecture"]["config"].update(normalise="maybe"), UsageError, "'normalise'"),
        (lambda c: c["architecture"].update(code="x"), CorruptStoreError, "architecture"),
        (lambda c: c["architecture"].update(in_width=7), CorruptStoreError, "widths"),
        (lambda c: c["architecture"]["config"].update(normalise=False), CorruptStoreError, "another map"),
        (lambda c: c["input_space"]["identity"].update(name="else"), CorruptStoreError, "another map"),
        (lambda c: c.update(input_space=None), CorruptStoreError, "no input space"),
        (lambda c: c.update(files={}), CorruptStoreError, r"no map\.safetensors"),
        (lambda c: c.update(kind="encoder"), UsageError, "encoder, not a map"),
    ],
)
def test_a_card_that_says_something_else_is_refused(tmp_path, change, error, message):
    saved(tmp_path)
    edit_card(tmp_path, change)
    with pytest.raises(error, match=message):
        load_map(tmp_path)


def test_absurd_widths_are_refused_before_memory_is_taken(tmp_path):
    saved(tmp_path)

    def widen(card):
        card["architecture"].update(in_width=1 << 40, out_width=1 << 20)
        card["input_space"]["width"], card["space"]["width"] = 1 << 40, 1 << 20

    edit_card(tmp_path, widen)
    with pytest.raises(CorruptStoreError, match="does not hold the tensors"):
        load_map(tmp_path)


def test_what_cannot_be_saved_leaves_no_card(tmp_path):
    with pytest.raises(NotFoundError, match=r"metrics\.jsonl"):
        saved(tmp_path, extra_files=["metrics.jsonl"])
    with pytest.raises(NotFoundError, match="passwd"):
        saved(tmp_path, extra_files=["../../etc/passwd"])
    with pytest.raises(AlignmentError, match="6 inputs"):
        saved(tmp_path, input_space=Space.named("backbone", 7))
    with pytest.raises(UsageError, match="built from"):
        save_map(
            tmp_path,
            fitted(CONFIGS[0]),
            config=MlpConfig(),
            input_space=SPACE,
            name="m",
            compatible_with=(),
            training={},
        )
    broken, double = fitted(CONFIGS[0]), fitted(CONFIGS[0]).double()
    with torch.no_grad():
        broken.body.weight[0, 0] = torch.nan
    rest = {"config": CONFIGS[0], "input_space": SPACE, "name": "m", "compatible_with": (), "training": {}}
    with pytest.raises(NonFiniteError, match=r"body\.weight"):
        save_map(tmp_path, broken, **rest)
    with pytest.raises(UsageError, match="float32"):
        save_map(tmp_path, double, **rest)
    with pytest.raises(NotFoundError, match="not a run folder"):
        load_map(tmp_path)
    saved(tmp_path)
    with pytest.raises(AlreadyExistsError, match="finished run"):
        saved(tmp_path)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_an_affine_map_writes_what_it_computes_with_or_without_an_offset(offset):
    torch.manual_seed(0)
    module = build_map(AffineConfig(), 16, 12).eval()
    torch.nn.init.constant_(module.body[1].bias, offset)
    x = 7 * torch.randn(50, 16)
    x[3] = 0
    out = torch.empty(50, 12)
    with torch.inference_mode():
        module.write(x, out)
        torch.testing.assert_close(out, module(x), rtol=0, atol=1e-6)
    assert bool(out[3].any()) == bool(offset)
