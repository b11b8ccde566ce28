"""One way to name every source: `[KIND:]LOCATION[?option=value&…]`.

    photos/                          folder   class/name.jpg, or flat; also s3://bucket/photos
    rows.csv, rows.parquet           table    a path or the bytes of an image in each row
    shards/part-{000..127}.tar       tar      webdataset shards, or packed folders
    saved/                           hf       what datasets.save_to_disk wrote
    images.npz, images.npy, a.zarr   array    uint8 images in one array

The kind is seen from the name and from what is there; writing it settles a doubt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

from featstore.errors import NotFoundError, UnknownNameError, UsageError
from featstore.foreign import is_zarr
from featstore.sources.arrays import ArrayImages, ArrayOptions
from featstore.sources.files import is_remote
from featstore.sources.hugging_face import HuggingFace, is_hugging_face
from featstore.sources.image_folder import ImageFolder
from featstore.sources.object_folder import ObjectFolder
from featstore.sources.source import Source
from featstore.sources.tables import Table, TableOptions
from featstore.sources.tars import TAR_ENDINGS, TarImages, folder_of_tars

__all__ = ["SOURCE_KINDS", "SourceKind", "open_source"]


class SourceKind(NamedTuple):
    """A kind of source.

    Attributes:
        what: One line on what it is.
        example: How it is written.
        options: Names of its options.
        open: From a location and options to the source.
    """

    what: str
    example: str
    options: tuple[str, ...]
    open: Callable[[str, Mapping[str, str]], Source]


def open_source(spec: str) -> Source:
    """The source that a spec names.

    Raises:
        UsageError: nobody knows the kind or an option; the hint lists the kinds.
        NotFoundError: nothing is there.
        Whatever opening it raises.
    """
    kind, location, options = _parsed(spec)
    if kind is None:
        kind = _seen(location)
    known = SOURCE_KINDS[kind]
    for name in options:
        if name not in known.options:
            raise UnknownNameError(
                f"option of a source of kind {kind}", name, known.options, hint="options are LOCATION?name=value"
            )
    return known.open(location, options)


def _parsed(spec: str) -> tuple[str | None, str, dict[str, str]]:
    kind = None
    match = re.fullmatch(r"([a-z]+):(?!//)(.*)", spec, re.DOTALL)
    if match and not Path(spec).exists():
        kind, spec = match.groups()
        if kind not in SOURCE_KINDS:
            raise UnknownNameError("kind of source", kind, SOURCE_KINDS, hint=_overview())
    location, mark, query = spec.rpartition("?")
    # ? is also a wildcard, so only what looks like options counts as such
    if not mark or "=" not in query or Path(spec).exists():
        return kind, spec, {}
    return kind, location, dict(parse_qsl(query, keep_blank_values=True))


def _seen(location: str) -> str:
    """The kind of a location, by its name and by what is there."""
    lower = location.lower().rstrip("/")
    if lower.endswith((".csv", ".tsv", ".parquet")):
        return "table"
    if lower.endswith(TAR_ENDINGS):
        return "tar"
    if lower.endswith((".npz", ".npy", ".zarr")):
        return "array"
    if is_remote(location):
        return "folder"
    path = Path(location).expanduser()
    if not path.is_dir():
        there = "is not a folder" if path.exists() else "does not exist"
        raise (UsageError if path.exists() else NotFoundError)(
            f"{path.absolute()} {there}, and its name says of no other kind of source", hint=_overview()
        )
    if is_hugging_face(str(path)):
        return "hf"
    if is_zarr(path):
        return "array"
    return "tar" if folder_of_tars(str(path)) else "folder"


def _overview() -> str:
    lines = [f"\n      {kind.example:32} {kind.what}" for kind in SOURCE_KINDS.values()]
    return "a source is one of" + "".join(lines)


def _folder(location: str, _: Mapping[str, str]) -> Source:
    return ObjectFolder(location.rstrip("/")) if is_remote(location) else ImageFolder.open(location)


def _table(location: str, options: Mapping[str, str]) -> Source:
    columns = options.get("columns")
    listed = None if columns is None else tuple(name for name in columns.split(",") if name)
    return Table.open(_local(location), TableOptions(**{**options, "columns": listed}))  # type: ignore[arg-type]


def _tar(location: str, options: Mapping[str, str]) -> Source:
    prefix = options.get("prefix", "none")
    if prefix not in ("none", "file"):
        raise UsageError(
            f"prefix={prefix} means nothing", hint="prefix=file begins each id with the name of its tar file"
        )
    pattern = _local(location)
    if not is_remote(pattern) and Path(pattern).is_dir():
        pattern = folder_of_tars(pattern) or pattern
    return TarImages.open(pattern, label=options.get("label", "label"), prefix=prefix == "file")


def _hugging_face(location: str, options: Mapping[str, str]) -> Source:
    return HuggingFace.open(
        _local(location.rstrip("/")), image=options.get("image"), label=options.get("label"), id_=options.get("id")
    )


def _array(location: str, options: Mapping[str, str]) -> Source:
    return ArrayImages.open(_local(location.rstrip("/")), ArrayOptions(**options))


def _local(location: str) -> str:
    """A path made absolute, so that the dataset records where it is."""
    return location if is_remote(location) else str(Path(location).expanduser().absolute())


SOURCE_KINDS: dict[str, SourceKind] = {
    "folder": SourceKind("images in class folders, or flat; also in an object store", "photos/", (), _folder),
    "table": SourceKind(
        "CSV or parquet with the path or the bytes of each image",
        "rows.csv, rows.parquet",
        ("id", "path", "image", "label", "root", "columns"),
        _table,
    ),
    "tar": SourceKind("webdataset shards, or packed folders", "'shards/{000..127}.tar'", ("label", "prefix"), _tar),
    "hf": SourceKind("what datasets.save_to_disk wrote", "saved/", ("id", "image", "label"), _hugging_face),
    "array": SourceKind("uint8 images in one array", "images.npz, .npy or .zarr", ("id", "image", "label"), _array),
}
