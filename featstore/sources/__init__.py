"""Where images come from, and how their bytes become pixels."""

from featstore.sources.decode import DECODE_POLICY, MAX_PIXELS, content_digest, decode_image
from featstore.sources.image_folder import ImageFolder
from featstore.sources.source import Item, Skipped, Source

__all__ = [
    "DECODE_POLICY",
    "MAX_PIXELS",
    "ImageFolder",
    "Item",
    "Skipped",
    "Source",
    "content_digest",
    "decode_image",
]
