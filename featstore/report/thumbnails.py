"""Small pictures of rows as data URIs. Images come from outside: every failure means 'no picture', never an error."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from featstore.errors import BadInputError
from featstore.sources import ImageFolder, decode_image

__all__ = ["SIDE", "Picture", "pictures_of"]

SIDE = 96
_MAX_PIXELS = 50_000_000
_QUALITY = 82

Picture = Callable[[str], str | None]
"""From an id to a data URI, or None where there is no picture."""


def pictures_of(images: Path | None) -> Picture:
    """Thumbnails of the ids below a folder that the reader names; none without one.

    The root that a store records is not followed: whoever wrote the store could name a private folder of the reader's.

    Raises:
        NotFoundError: there is no such folder.
    """
    folder = ImageFolder.open(images) if images is not None else None
    known: dict[str, str | None] = {}

    def picture(id_: str) -> str | None:
        if folder is None:
            return None
        if id_ not in known:
            known[id_] = _thumbnail(folder, id_)
        return known[id_]

    return picture


def _thumbnail(folder: ImageFolder, id_: str) -> str | None:
    try:
        image = decode_image(folder.read(id_), max_pixels=_MAX_PIXELS)
    except (BadInputError, ValueError):  # ValueError: names that no file system can hold
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.info = {}  # Pillow would write an original's comment into the new file
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
