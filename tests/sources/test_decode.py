"""The decode policy, clause by clause, and hostile bytes."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from featstore.errors import BadInputError, UsageError
from featstore.sources import content_digest, decode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def array(data):
    return np.asarray(decode_image(data))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_give_the_pixels(kind, options):
    np.testing.assert_array_equal(array(encoded(Image.fromarray(PIXELS), kind, **options)), PIXELS)


def test_every_format_works_in_a_fresh_process():
    # Pillow loads its plug-ins lazily: what opened first must not decide what can be opened next
    for kind in ("JPEG", "GIF", "WEBP", "PNG"):
        data = encoded(Image.fromarray(PIXELS), kind)
        code = f"from featstore.sources import decode_image; assert decode_image({data!r}).size == (13, 9)"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_jpeg_is_what_pillow_gives():
    data = encoded(Image.fromarray(PIXELS), "JPEG")
    np.testing.assert_array_equal(array(data), np.asarray(Image.open(io.BytesIO(data))))


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    np.testing.assert_array_equal(array(encoded(Image.fromarray(PIXELS), exif=exif)), np.rot90(PIXELS, -1))


def test_transparency_lies_over_white():
    alpha = np.full((2, 2), 128, dtype=np.uint8)
    alpha[0, 0], alpha[0, 1] = 0, 255
    rgba = np.dstack([np.full((2, 2, 3), 100, dtype=np.uint8), alpha])
    result = array(encoded(Image.fromarray(rgba)))
    expected = np.round(100 * (alpha / 255.0) + 255 * (1 - alpha / 255.0))
    assert np.abs(result.astype(float) - expected[..., None]).max() <= 1
    assert result[0, 0].tolist() == [255] * 3
    assert result[0, 1].tolist() == [100] * 3


def test_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert array(encoded(image, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert array(encoded(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_grey_alpha_and_bilevel():
    grey_alpha = Image.fromarray(np.array([[[7, 0], [7, 255]]], dtype=np.uint8))
    assert array(encoded(grey_alpha)).tolist() == [[[255] * 3, [7] * 3]]
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert array(encoded(bits)).tolist() == [[0, 255]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_rounded(kind):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    expected = np.floor(values / 257 + 0.5).astype(int).tolist()
    assert array(encoded(Image.fromarray(values), kind)).tolist() == expected


def test_32_bit_integers_count_as_16_bit_and_floats_are_refused():
    values = np.array([[-5, 0, 65535, 70000]], dtype=np.int32)
    assert array(encoded(Image.fromarray(values), "TIFF")).tolist() == [[0, 0, 255, 255]]
    with pytest.raises(BadInputError, match="floating"):
        decode_image(encoded(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF"))


def test_cmyk_becomes_rgb():
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    data = encoded(cmyk, "JPEG", quality=100)
    assert decode_image(data).mode == "RGB"
    np.testing.assert_array_equal(array(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert array(data)[0, 0].tolist() == [255, 0, 0]


def test_one_pixel():
    assert array(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("data", [b"", b"<!doctype html><html>404</html>", b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image(data):
    with pytest.raises(BadInputError):
        decode_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_files_are_no_images(kind):
    data = encoded(Image.fromarray(PIXELS), kind)
    for keep in (len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(BadInputError):
            decode_image(data[:keep])


def test_the_flag_that_makes_pictures_of_broken_files_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UsageError, match="LOAD_TRUNCATED_IMAGES"):
        decode_image(encoded(Image.fromarray(PIXELS)))


def bomb(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_500, 20_000])  # Pillow warns about the first and refuses the second
def test_decompression_bombs_are_refused_before_they_unfold(side):
    with pytest.raises(BadInputError, match=r"(?i)bomb|pixels"):
        decode_image(bomb(side, side))


def test_max_pixels():
    data = encoded(Image.new("L", (10, 10)))
    assert decode_image(data, max_pixels=100).size == (10, 10)
    with pytest.raises(BadInputError, match="10×10 pixels"):
        decode_image(data, max_pixels=99)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_damaged_files_give_an_image_or_bad_input_and_nothing_else(kind, data):
    sound = encoded(Image.fromarray(PIXELS), kind)
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadInputError):
        assert decode_image(bytes(damaged)).mode in ("L", "RGB")


def test_content_digest():
    assert bytes(content_digest(b"abc")) == blake3(b"abc").digest(16)
