"""Where images come from, and how their bytes become pixels."""

from featstore.sources.decode import DECODE_POLICY, MAX_PIXELS, content_digest, decode_image
from featstore.sources.image_folder import ImageFolder
from featstore.sources.source import NOWHERE, ColumnValue, Item, Place, Skipped, Source
from featstore.sources.spec import SOURCE_KINDS, SourceKind, open_source

__all__ = [
    "DECODE_POLICY",
    "MAX_PIXELS",
    "NOWHERE",
    "SOURCE_KINDS",
    "ColumnValue",
    "ImageFolder",
    "Item",
    "Place",
    "Skipped",
    "Source",
    "SourceKind",
    "content_digest",
    "decode_image",
    "open_source",
]
