"""Encoders: their space, their checks, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import nn

from featstore.encoders import Encoder, Preprocess, architecture_names, build_architecture, weights_digest
from featstore.errors import AlignmentError, NonFiniteError, UnknownNameError, UsageError
from featstore.spaces import difference

GREY = Preprocess(channels=1, size=16)
CONFIG = {"in_channels": 1, "widths": [4, 8], "embedding": 6}
IMAGES = np.random.default_rng(0).normal(size=(9, 1, 16, 16)).astype(np.float32)


def net(seed=0):
    return build_architecture("convnet", CONFIG, seed=seed)


def make(module=None, preprocess=GREY, **options):
    return Encoder(module or net(), preprocess, architecture="convnet", config=CONFIG, **options)


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def test_encode_is_the_network_in_evaluation_mode():
    module = net().train()
    for _ in range(3):
        module(torch.randn(8, 1, 16, 16) * 3 + 1)  # so that the running statistics matter
    encoder = make(module)
    module.train()
    features = encoder.encode(IMAGES)
    assert (features.shape, features.dtype, encoder.width) == ((9, 6), np.float32, 6)
    module.eval()
    with torch.no_grad():
        np.testing.assert_array_equal(features, module(torch.from_numpy(IMAGES)).numpy())
    digest = weights_digest(module)
    encoder.encode(IMAGES)
    assert weights_digest(module) == digest
    encoder.check(IMAGES)


def test_normalise():
    plain, unit = make().encode(IMAGES), make(normalise=True).encode(IMAGES)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (lambda: make(net(1)), "weights"),
        (lambda: make(preprocess=Preprocess(channels=1, size=16, std=(0.5,))), "preprocess.std"),
        (lambda: make(preprocess=Preprocess(channels=1, size=16, interpolation="bicubic")), "preprocess.interpolation"),
        (lambda: make(normalise=True), "normalise"),
    ],
)
def test_what_makes_another_space(other, field):
    assert [d.field for d in difference(make().space, other().space)] == [field]


def test_the_same_parts_make_the_same_space_whatever_they_are_called():
    assert make().space.digest == make(name="other").space.digest
    assert make(name="other").space.name == "other"
    assert make().space.numerics["torch"] == torch.__version__


def test_the_weights_digest_sees_every_bit_name_and_type():
    module = net()
    before = weights_digest(module)
    module.load_state_dict(module.state_dict())
    assert weights_digest(module) == before
    seen = {before}
    with torch.no_grad():
        module.project.bias[3] = torch.nextafter(module.project.bias[3], torch.tensor(9.0))
        seen.add(weights_digest(module))
        module.stages[1].num_batches_tracked += 1
        seen.add(weights_digest(module))
    seen.add(weights_digest(module.half()))
    seen.add(weights_digest(module.to(torch.bfloat16)))
    seen.add(weights_digest(nn.ModuleDict({"x": module})))
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("given", "stored"), [(torch.float16, "float16"), (torch.bfloat16, "float32"), (torch.float64, "float32")]
)
def test_dtypes(given, stored):
    encoder = make(Calling(lambda x: x.flatten(1)[:, :4].to(given)))
    assert encoder.dtype == np.dtype(stored)
    features = encoder.encode(IMAGES)
    assert features.dtype == np.dtype(stored)
    expected = torch.from_numpy(IMAGES).flatten(1)[:, :4].to(given).double().numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_half_precision_is_normalised_without_overflow():
    encoder = make(Calling(lambda x: (x.flatten(1)[:, :4] * 0 + 300).to(torch.float16)), normalise=True)
    np.testing.assert_allclose(encoder.encode(IMAGES), 0.5, atol=1e-3)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: x, AlignmentError),
        (lambda x: x.flatten(1)[:1].expand(3, -1), AlignmentError),
        (lambda x: x.flatten(1).mean(1), AlignmentError),
        (lambda x: x.flatten(1).long(), UsageError),
        (lambda x: (x,), UsageError),
    ],
)
def test_outputs_that_are_no_features(function, error):
    with pytest.raises(error):
        make(Calling(function))


def test_check_finds_dropout_that_stays_on():
    encoder = make(Calling(lambda x: nn.functional.dropout(x.flatten(1), 0.5, training=True)))
    with pytest.raises(UsageError, match="the same images again"):
        encoder.check(IMAGES)


def test_check_finds_features_that_depend_on_their_neighbours():
    encoder = make(Calling(lambda x: x.flatten(1) - x.flatten(1).mean(0)))
    with pytest.raises(UsageError, match="in a batch than alone"):
        encoder.check(IMAGES)


def test_check_finds_nan_everywhere_but_bears_it_in_one_row():
    with pytest.raises(NonFiniteError):
        make(Calling(lambda x: x.flatten(1) * float("nan"))).check(IMAGES)
    some = IMAGES.copy()
    some[-1] = np.nan
    make(Calling(lambda x: x.flatten(1))).check(some)


def test_convnet_halves_the_image_at_each_stage():
    module = build_architecture("convnet", {"in_channels": 3, "widths": [5, 7, 9], "embedding": 11})
    assert module.stages(torch.zeros(2, 3, 64, 64)).shape == (2, 9, 8, 8)
    assert module(torch.zeros(2, 3, 28, 28)).shape == (2, 11)


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert weights_digest(net(1)) == weights_digest(net(1)) != weights_digest(net(2))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "config",
    [{"widths": []}, {"widths": [10**9]}, {"embedding": 0}, {"in_channels": 2}, {"depth": 3}, {"widths": [4] * 9}],
)
def test_configs_that_cannot_be(config):
    with pytest.raises(UsageError, match="convnet"):
        build_architecture("convnet", config)


def test_unknown_architectures():
    assert "convnet" in architecture_names()
    with pytest.raises(UnknownNameError, match="convnet"):
        build_architecture("convnett", {})
