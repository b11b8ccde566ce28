"""Preprocessing as data: what each field does, and what cannot be."""

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from featstore.encoders import Preprocess
from featstore.sources import DECODE_POLICY

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def test_normalisation_by_its_definition():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    square = Image.fromarray(PIXELS[:, :40])
    result = Preprocess(size=40, mean=mean, std=std).apply(square)
    expected = ((PIXELS[:, :40] / 255 - mean) / std).transpose(2, 0, 1)
    assert (result.dtype, result.shape) == (np.float32, (3, 40, 40))
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_squash_is_pillows_resize():
    result = Preprocess(size=16, interpolation="bicubic").apply(IMAGE)
    expected = np.asarray(IMAGE.resize((16, 16), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=1e-6)


def test_shorter_side_is_resize_then_centre_crop():
    result = Preprocess(size=16, resize="shorter-side", shorter_side=20, interpolation="box").apply(IMAGE)
    whole = np.asarray(IMAGE.resize((30, 20), Image.Resampling.BOX)) / 255
    np.testing.assert_allclose(result, whole[2:18, 7:23].transpose(2, 0, 1), atol=1e-6)
    tall = Preprocess(size=16, resize="shorter-side", shorter_side=20, interpolation="box").apply(
        Image.fromarray(PIXELS.transpose(1, 0, 2))
    )
    # Pillow rounds to 8 bits between its horizontal and its vertical pass
    np.testing.assert_allclose(tall, result.transpose(0, 2, 1), atol=1.01 / 255)


def test_a_needle_never_becomes_a_huge_image():
    needle = Image.new("RGB", (100_000, 1), (9, 9, 9))
    result = Preprocess(size=64, resize="shorter-side", shorter_side=64).apply(needle)
    np.testing.assert_allclose(result, 9 / 255, atol=1e-6)


def test_channels():
    grey = Preprocess(channels=1, size=8).apply(Image.new("RGB", (8, 8), (255, 0, 0)))
    np.testing.assert_allclose(grey, round(0.299 * 255) / 255, atol=1e-6)
    colour = Preprocess(channels=3, size=8).apply(Image.new("L", (8, 8), 51))
    assert colour.shape == (3, 8, 8)
    np.testing.assert_allclose(colour, 0.2, atol=1e-6)


def test_defaults_are_written_out_so_that_equal_preprocessing_has_equal_fields():
    spelled = Preprocess(decode="pillow-1", channels=1, size=8, mean=(0.0,), std=(1.0,))
    assert Preprocess(channels=1, size=8) == spelled
    assert Preprocess.model_validate(spelled.model_dump(mode="json")) == spelled
    assert hash(spelled) == hash(Preprocess(channels=1, size=8))
    assert spelled.decode == DECODE_POLICY


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0},
        {"size": 8, "channels": 2},
        {"size": 8, "mean": (0.5,)},
        {"size": 8, "std": (1, 1, 0)},
        {"size": 8, "mean": (0, 0, float("nan"))},
        {"size": 8, "resize": "shorter-side"},
        {"size": 8, "shorter_side": 10},
        {"size": 8, "resize": "shorter-side", "shorter_side": 7},
        {"size": 8, "interpolation": "cubic"},
        {"size": 8, "sizes": 3},
        {"size": 8, "decode": "pillow-2"},
    ],
)
def test_what_cannot_be(fields):
    with pytest.raises(ValidationError):
        Preprocess(**fields)
