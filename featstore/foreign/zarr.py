"""Zarr arrays (v2 or v3) of other writers. Only codecs and types from a list are decoded; no chunk may be missing.

https://zarr-specs.readthedocs.io
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import BadInputError
from featstore.foreign.reading import reading

__all__ = ["ZarrArray", "describe_zarr", "is_zarr", "zarr_arrays"]

_CODECS_V3 = {"bytes", "blosc", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-utf8", "zstd"}
_CODECS_V2 = {"blosc", "bz2", "crc32c", "gzip", "lz4", "lzma", "shuffle", "vlen-utf8", "zlib", "zstd"}
_TEXT_V3 = {"string", "fixed_length_utf32", "null_terminated_bytes"}
_METADATA = ("zarr.json", ".zarray", ".zgroup")


def is_zarr(path: Path) -> bool:
    """Whether a folder holds a Zarr group or array."""
    return any((path / name).is_file() for name in _METADATA)


@dataclass(frozen=True)
class ZarrArray:
    """One array as its metadata describes it, checked.

    Attributes:
        folder: Where it is.
        shape: Of the array.
        grid: Shape of the stored chunks (of the shards, where it is sharded).
        name_of: The file of a chunk by its place in the grid.
        version: Zarr format.
    """

    folder: Path
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    name_of: Callable[[tuple[int, ...]], str]
    version: int

    def check_stored(self) -> None:
        """Refuse an array with holes: Zarr would read fill values without a word."""
        counts = [-(-length // chunk) for length, chunk in zip(self.shape, self.grid, strict=True)]
        for number in range(math.prod(counts)):  # one at a time, however many the metadata claims
            place: tuple[int, ...] = ()
            for count in reversed(counts):
                number, here = divmod(number, count)
                place = (here, *place)
            file = self.folder / self.name_of(place)
            if not file.is_file() or not file.stat().st_size:
                raise BadInputError(
                    f"chunk {self.name_of(place)} of {self.folder} is missing or empty",
                    hint="copy it again; if zeros were left out on purpose, write it with write_empty_chunks=True",
                )

    def open(self) -> Any:
        """The array of zarr-python."""
        import zarr
        from zarr.storage import LocalStore

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # types without a specification read all the same
            return zarr.open_array(LocalStore(self.folder, read_only=True), mode="r", zarr_format=self.version)  # type: ignore[arg-type]


def zarr_arrays(path: Path) -> list[Path]:
    """Folders of all arrays in a Zarr folder, sorted. Symbolic links are not followed."""
    found = []
    pending = [path]
    while pending:
        folder = pending.pop()
        if (folder / ".zarray").is_file() or _json(folder / "zarr.json").get("node_type") == "array":
            found.append(folder)
        else:
            pending += [child for child in folder.iterdir() if not child.is_symlink() and is_zarr(child)]
    return sorted(found)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with reading(path):
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
        return document


def describe_zarr(folder: Path) -> ZarrArray:
    """Metadata of an array, after refusing what would need another codec or another kind of value."""
    document = _json(folder / "zarr.json")
    if document:
        kind, codecs = document["data_type"], _codecs(document["codecs"])
        kind = kind["name"] if isinstance(kind, dict) else kind
        known = kind in _TEXT_V3 or np.dtype(kind).kind in "biuf"
        odd = sorted(codecs - _CODECS_V3) + list(document.get("storage_transformers") or [])
        grid = document["chunk_grid"]["configuration"]["chunk_shape"]
        keys = document["chunk_key_encoding"]
        separator = (keys.get("configuration") or {}).get("separator", "/" if keys["name"] == "default" else ".")
        first = ["c"] if keys["name"] == "default" else []
    else:
        document = _json(folder / ".zarray")
        kind = document["dtype"]
        filters = [codec["id"] for codec in document.get("filters") or []]
        compressor = document["compressor"]
        known = isinstance(kind, str) and (np.dtype(kind).kind in "biufSU" or "vlen-utf8" in filters)
        odd = sorted({*filters, *([compressor["id"]] if compressor else [])} - _CODECS_V2)
        grid, first = document["chunks"], []
        separator = document.get("dimension_separator", ".")
    if odd:
        raise BadInputError(
            f"{folder} needs the codec {odd[0]}, which is not decoded",
            hint=f"write it again with one of {', '.join(sorted(_CODECS_V3))}",
        )
    if not known:
        raise BadInputError(f"{folder} holds {kind}, which is not read", hint="save plain numbers or text")
    shape = tuple(document["shape"])
    if len(grid) != len(shape) or min((*shape, *grid), default=1) < 0 or 0 in grid or separator not in (".", "/"):
        raise ValueError(f"chunks {grid} do not fit shape {shape}")

    def name_of(place: tuple[int, ...]) -> str:
        return str(separator).join([*first, *map(str, place)])

    return ZarrArray(folder, shape, tuple(grid), name_of, document["zarr_format"])


def _codecs(listed: list[dict[str, Any]]) -> set[str]:
    """Names of codecs, those inside shards too."""
    names: set[str] = set()
    for codec in listed:
        names.add(codec["name"])
        inside = codec.get("configuration") or {}
        names |= _codecs([*inside.get("codecs", ()), *inside.get("index_codecs", ())])
    return names
