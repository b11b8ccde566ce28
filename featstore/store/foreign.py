"""Rows of a Zarr array that another writer laid out: compressed, chunked otherwise, through zarr-python.

Only codecs that decode bytes and nothing else are allowed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError, UntrustedError
from featstore.store.files import Files
from featstore.store.local_files import LocalFiles

__all__ = ["read_rows"]

_CODECS = {"bytes", "transpose", "sharding_indexed", "crc32c", "zstd", "blosc", "gzip"}


def read_rows(files: Files, key: str, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of the array under a key.

    Raises:
        UntrustedError: the array names a codec that is not one of those above.
        CorruptStoreError: it cannot be decoded.
    """
    import zarr

    where = files.where(key)
    try:
        metadata = json.loads(files.get(f"{key}/zarr.json"))
        names = set(_codec_names(metadata))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CorruptStoreError(f"the metadata of {where} is damaged: {error}") from error
    if names - _CODECS:
        raise UntrustedError(
            f"{where} uses codecs that are not allowed: {', '.join(sorted(names - _CODECS))}",
            hint="rewrite the array with one of " + ", ".join(sorted(_CODECS)),
        )
    array = zarr.open_array(_location(files, key), mode="r", zarr_format=3)
    try:
        return np.asarray(array[start:stop])
    except (ValueError, RuntimeError) as error:
        raise CorruptStoreError(f"rows {start} to {stop} of {where} cannot be read: {error}") from error


def _codec_names(metadata: dict[str, Any]) -> Iterator[str]:
    for codec in metadata["codecs"]:
        yield codec["name"]
        inner = codec.get("configuration", {})
        yield from _codec_names({"codecs": [*inner.get("codecs", []), *inner.get("index_codecs", [])]})


def _location(files: Files, key: str) -> Any:
    if isinstance(files, LocalFiles):
        return files.where(key)
    # an array of another writer in an object store is fetched whole; featstore's own never come here
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    prototype = default_buffer_prototype()
    content = {info.key[len(key) + 1 :]: prototype.buffer.from_bytes(files.get(info.key)) for info in files.walk(key)}
    return MemoryStore(content)
