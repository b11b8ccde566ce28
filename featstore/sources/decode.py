"""Safe decoding: bytes to pixels under one documented policy, whose version is part of every encoder's space.

Policy `pillow-1`:

- Formats: BMP, GIF, JPEG, PNG, PNM, TIFF, WebP; anything else is an error, whatever its file name says.
- At most `max_pixels` pixels; truncated files are errors, never half a picture.
- The first frame of an animation or of a multi-page file.
- EXIF orientation is applied; ICC profiles are ignored.
- Transparency (alpha channel, transparent palette entry or colour) is composited over white.
- CMYK and YCbCr become RGB, bilevel becomes grey (0 and 255).
- 16-bit grey becomes 8-bit by rounding v / 257; 32-bit integers count as 16-bit and are clipped; floats are an error.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from featstore.errors import BadInputError, UsageError

__all__ = ["DECODE_POLICY", "MAX_PIXELS", "content_digest", "decode_image"]

DECODE_POLICY = "pillow-1"
MAX_PIXELS = 89_478_485  # a quarter GiB of RGB, Pillow's own limit
_DIGEST_BYTES = 16
# Pillow loads plug-ins lazily, but not when it is told the formats; importing these registers exactly what the policy allows
_FORMATS = tuple(
    plugin.format
    for plugin in (
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        PpmImagePlugin.PpmImageFile,
        TiffImagePlugin.TiffImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)
_WIDE_GREY = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


def content_digest(data: bytes) -> NDArray[np.uint8]:
    """128-bit blake3 of a file's bytes, uint8 [16]."""
    return np.frombuffer(blake3(data).digest(_DIGEST_BYTES), dtype=np.uint8)


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image by the policy above.

    Args:
        data: A file's bytes.
        max_pixels: Larger images are refused before they are decompressed.

    Returns:
        An image in mode `RGB` or `L`.

    Raises:
        BadInputError: the bytes are no whole image of a known format.
        UsageError: some code switched Pillow's LOAD_TRUNCATED_IMAGES on, which makes pictures of broken files.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: broken files would pass as pictures",
            hint="remove the line that sets it (often in the module of a python: model)",
        )
    if not data:
        raise BadInputError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata does not matter here
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise BadInputError(f"{image.width}×{image.height} pixels are more than {max_pixels:,}")
                image.load()
                return _to_grey_or_rgb(ImageOps.exif_transpose(image))
        except BadInputError:
            raise
        except UnidentifiedImageError as error:
            raise BadInputError(f"not an image of a known format; it starts with {data[:12]!r}") from error
        except Exception as error:  # on hostile bytes Pillow raises anything from SyntaxError to struct.error
            raise BadInputError(f"{type(error).__name__}: {error}"[:300]) from error


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_GREY:
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise BadInputError("floating-point pixels have no agreed range")
    if "transparency" in image.info or image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        straight = image.convert("LA") if image.mode == "La" else image  # the only mode without a direct way to RGBA
        opaque.alpha_composite(straight.convert("RGBA"))
        return opaque.convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
