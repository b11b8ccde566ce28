"""Hugging Face datasets on disk, as `Dataset.save_to_disk` writes them: Arrow streams and a description in JSON.

https://huggingface.co/docs/datasets. Only pyarrow is needed to read them: `pip install 'featstore[parquet]'`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from featstore.errors import BadInputError, NotFoundError, UnknownNameError, UsageError
from featstore.sources.arrow_values import image_bytes, is_image_column, is_plain_column, plain_rows, pyarrow
from featstore.sources.files import FileSystem, is_remote, joined
from featstore.sources.source import NOWHERE, ColumnValue, Item, Place, Skipped
from featstore.sources.values import chosen_column

__all__ = ["HuggingFace", "is_hugging_face"]

_DICT = "dataset_dict.json"
_INFO = "dataset_info.json"
_STATE = "state.json"
_MAX_JSON = 64 << 20
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class _Options:
    """Columns by role; see `Table`. Kept apart so that a source compares by what was asked for."""

    image: str | None = None
    label: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class HuggingFace:
    """The rows of a dataset, or of all splits of a DatasetDict; a split becomes the column `split`.

    The id is the column `id` if there is one, else the number of the row, after the split's name where there are splits.
    Columns of names and numbers become columns; a ClassLabel becomes the names of its classes.

    Attributes:
        folder: Path or URL.
        splits: Names of the splits, in order; one empty name for a dataset without.
        files: How it is reached.
    """

    folder: str
    splits: tuple[str, ...]
    options: _Options = _Options()
    files: FileSystem = field(default_factory=FileSystem)
    _tables: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        return HuggingFace, (self.folder, self.splits, self.options)

    @classmethod
    def open(
        cls, folder: str, *, image: str | None = None, label: str | None = None, id_: str | None = None
    ) -> HuggingFace:
        """The dataset in a folder.

        Raises:
            NotFoundError: there is none.
        """
        files = FileSystem()
        splits: tuple[str, ...] = ("",)
        listing = _json(files, joined(folder, _DICT))
        if listing is not None:
            splits = tuple(str(name) for name in listing.get("splits", ()))
        for split in splits:
            if _json(files, joined(_below(folder, split), _STATE)) is None:
                raise NotFoundError(
                    f"{_below(folder, split)} holds no dataset saved by save_to_disk: {_STATE} is missing",
                    hint="give the folder that Dataset.save_to_disk or DatasetDict.save_to_disk wrote",
                )
        return cls(folder, splits, _Options(image, label, id_), files)

    @property
    def root(self) -> str:
        """The folder."""
        return self.folder

    def rows(self, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        """The rows, split by split.

        Raises:
            BadInputError: there is none, or a file that cannot be read.
            UsageError: no column holds images.
        """
        some = False
        for split in self.splits:
            number = 0
            for name in self._data_files(split):
                for item in self._rows_of(split, name, number, on_skip):
                    some = True
                    number += 1
                    yield item
        if not some:
            raise BadInputError(f"{self.folder} has no rows")

    def read(self, id_: str, place: Place = NOWHERE, /) -> bytes:
        """The bytes of one image.

        Raises:
            BadInputError: the dataset has no such row any more, or no image in it.
        """
        split = place.file.rpartition("/")[0]
        if split not in self.splits or ".." in place.file:
            raise BadInputError(f"{id_} lies in '{place.file}', which is not part of {self.folder}")
        table = self._table(place.file)
        image, _, id_column = self._roles(table.schema)
        if not 0 <= place.position < table.num_rows:
            raise BadInputError(f"{place.file} has no row {place.position} any more")
        if id_column and str(table.column(id_column)[place.position].as_py()) != id_.rpartition("/")[2]:
            raise BadInputError(f"{id_} is not in its row of {place.file} any more: the dataset changed")
        data = image_bytes(table.column(image)[place.position])
        if not isinstance(data, bytes):
            raise BadInputError(
                f"{id_} has no bytes in the dataset, only a path to a file outside of it",
                hint="save it again after `cast_column(…, Image(decode=False))` with embedded bytes",
            )
        return data

    def _rows_of(self, split: str, name: str, number: int, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        found = self.files.stat(joined(self.folder, name))
        table = self._table(name)
        _, label, id_column = self._roles(table.schema)
        kept = [entry.name for entry in table.schema if is_plain_column(entry.type)]
        classes = _class_names(table.schema)
        prefix = f"{split}/" if split else ""
        position = 0
        for batch in table.select(kept).to_batches(max_chunksize=_BATCH_ROWS):
            for values in plain_rows(batch, kept):
                columns: dict[str, ColumnValue] = dict(zip(kept, values, strict=True))
                for key, names in classes.items():
                    columns[key] = _class_name(columns.get(key), names)
                given = columns.pop(id_column, None) if id_column else f"{number + position:09d}"
                own = columns.pop(label, None) if label else None
                if split:
                    columns["split"] = split
                if given is None:
                    on_skip(Skipped(f"{name}, row {position}", "it has no id"))
                else:
                    text = None if own is None else str(own)
                    yield Item(f"{prefix}{given}", text, found.size, found.mtime_ns, Place(name, position), columns)
                position += 1

    def _roles(self, schema: Any) -> tuple[str, str | None, str | None]:
        """Columns of the image, the label and the id."""
        names = [entry.name for entry in schema]
        images = [entry.name for entry in schema if is_image_column(entry.type)]
        for given in (self.options.image, self.options.label, self.options.id):
            if given is not None and given not in names:
                raise UnknownNameError(f"column of {self.folder}", given, names)
        image = chosen_column(self.options.image, ("image", "img", *images), images)
        if image is None:
            raise UsageError(
                f"no column of {self.folder} holds images; it has {', '.join(names)}",
                hint=f"cast one to datasets.Image, or name it: 'hf:{self.folder}?image=COLUMN'",
            )
        label = chosen_column(self.options.label, ("label", "labels", *_class_names(schema)), names)
        return image, label, chosen_column(self.options.id, ("id",), names)

    def _data_files(self, split: str) -> list[str]:
        """The Arrow files of a split, as names below the folder."""
        state = _json(self.files, joined(_below(self.folder, split), _STATE)) or {}
        listed = [entry.get("filename", "") for entry in state.get("_data_files") or ()]
        if not listed or any(not name or "/" in name or name.startswith(".") for name in listed):
            raise BadInputError(f"{joined(_below(self.folder, split), _STATE)} does not list the dataset's files")
        return [f"{split}/{name}" if split else name for name in listed]

    def _table(self, name: str) -> Any:
        """A file's columns; a local one is mapped, not read."""
        if name not in self._tables:
            self._tables.clear()  # one at a time: rows are read in their order
            arrow = pyarrow(f"reading {self.folder}")
            location = joined(self.folder, name)
            try:
                stream = self.files.open(location) if is_remote(location) else arrow.memory_map(location)
                stream.seek(0)
                self._tables[name] = arrow.ipc.open_stream(stream).read_all()
            except (arrow.ArrowException, OSError) as error:
                raise BadInputError(f"{location} is no readable Arrow stream: {error}") from error
        return self._tables[name]


def is_hugging_face(folder: str) -> bool:
    """Whether a local folder holds a saved dataset."""
    files = FileSystem()
    return any(_json(files, joined(folder, name)) is not None for name in (_DICT, _STATE))


def _below(folder: str, split: str) -> str:
    return joined(folder, split) if split else folder


def _json(files: FileSystem, location: str) -> dict[str, Any] | None:
    """A JSON document; None if it is not there."""
    try:
        found = files.stat(location)
        stream = files.open(location)
    except (NotFoundError, BadInputError):
        return None
    if found.size > _MAX_JSON:
        raise BadInputError(f"{location} has {found.size:,} bytes")
    stream.seek(0)
    try:
        parsed = json.loads(stream.read())
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{location} is no JSON document: {error}") from error
    if not isinstance(parsed, dict):
        raise BadInputError(f"{location} is no JSON object")
    return parsed


def _class_names(schema: Any) -> dict[str, list[str]]:
    """The names of each ClassLabel column, as the schema's metadata has them."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = described.get("info", {}).get("features", {})
        return {
            str(name): [str(text) for text in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _class_name(code: ColumnValue, names: list[str]) -> ColumnValue:
    return names[code] if isinstance(code, int) and 0 <= code < len(names) else None
