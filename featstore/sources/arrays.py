"""Images as one array: `.npz`, `.npy` or Zarr, uint8 of shape [N, H, W], [N, H, W, C] or [N, C, H, W] with C = 1 or 3.

An image is handed on as the bytes of a PGM or PPM file, which is a short header before the pixels as they are, so that
decoding and content digests are those of every other image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.errors import BadInputError, UnknownNameError, UsageError
from featstore.foreign import describe_zarr, is_zarr, zarr_arrays
from featstore.sources.files import FileSystem, is_remote
from featstore.sources.npy_arrays import open_npy, open_npz
from featstore.sources.source import NOWHERE, ColumnValue, Item, Place, Skipped
from featstore.sources.values import chosen_column, plain_value

__all__ = ["ArrayImages", "ArrayOptions"]

_IMAGES = ("images", "image", "x", "data", "arr_0")
_LABELS = ("labels", "label", "y", "targets")
_IDS = ("ids", "id")
_CLASS_NAMES = ("class_names", "classes", "label_names")
_BLOCK_ROWS = 8192


class ArrayOptions(NamedTuple):
    """Names of the arrays, None for the usual ones.

    Attributes:
        image: The images.
        label: Class of each image, as a name or as a number.
        id: Id of each image; else rows are numbered.
    """

    image: str | None = None
    label: str | None = None
    id: str | None = None


class Rows(NamedTuple):
    """An array that is read row by row.

    Attributes:
        shape: Of the whole array.
        dtype: Its type.
        take: Rows [start, stop) as an array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    take: Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True)
class ArrayImages:
    """The images of an array, with the arrays of the same length beside it as label, id and columns.

    Labels that are numbers become names where an array of class names is there too.

    Attributes:
        location: Path or URL.
        options: Names of the arrays.
        files: How it is reached.
    """

    location: str
    options: ArrayOptions
    files: FileSystem = field(default_factory=FileSystem)
    _arrays: dict[str, Rows] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        return ArrayImages, (self.location, self.options)

    @classmethod
    def open(cls, location: str, options: ArrayOptions) -> ArrayImages:
        """The images in a file or Zarr folder.

        Raises:
            NotFoundError: it is not there.
            BadInputError: it is damaged, or holds no images.
            UsageError: several arrays may be the images, or the one named is none.
        """
        source = cls(location, options)
        source._images()
        return source

    @property
    def root(self) -> str:
        """The location."""
        return self.location

    def rows(self, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        """The images in the order of the array.

        Raises:
            BadInputError: there is none.
        """
        del on_skip  # an array has no holes
        images = self._images()
        count = images.shape[0]
        if not count:
            raise BadInputError(f"{self.location} holds no images")
        arrays = self._opened()
        beside = {name: rows for name, rows in arrays.items() if rows.shape == (count,)}
        size, mtime = self._hint()
        label = chosen_column(self.options.label, _LABELS, beside)
        id_name = chosen_column(self.options.id, _IDS, beside)
        for given in (label, id_name):
            if given is not None and given not in beside:
                raise UnknownNameError(f"array of {count} values in {self.location}", given, beside)
        names = _class_names(arrays)
        for start in range(0, count, _BLOCK_ROWS):
            stop = min(count, start + _BLOCK_ROWS)
            block = {name: _listed(rows.take(start, stop)) for name, rows in beside.items()}
            for k in range(stop - start):
                columns = {name: values[k] for name, values in block.items()}
                own = columns.pop(label, None) if label else None
                id_ = columns.pop(id_name, None) if id_name else f"{start + k:09d}"
                if names is not None and isinstance(own, int):
                    own = names[own] if 0 <= own < len(names) else None
                yield Item(str(id_), None if own is None else str(own), size, mtime, Place("", start + k), columns)

    def read(self, id_: str, place: Place = NOWHERE, /) -> bytes:
        """One image as the bytes of a PGM or PPM file.

        Raises:
            BadInputError: the array has no such row any more.
        """
        images = self._images()
        if not 0 <= place.position < images.shape[0]:
            raise BadInputError(f"{id_}: {self.location} has no row {place.position} any more")
        id_name = chosen_column(self.options.id, _IDS, self._opened())
        if id_name and _listed(self._opened()[id_name].take(place.position, place.position + 1))[0] != id_:
            raise BadInputError(f"{id_} is not in its row of {self.location} any more: the file changed")
        pixels = images.take(place.position, place.position + 1)[0]
        if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
            pixels = pixels.transpose(1, 2, 0)
        height, width = pixels.shape[:2]
        kind = b"P6" if pixels.ndim == 3 and pixels.shape[2] == 3 else b"P5"
        return b"%b %d %d 255\n" % (kind, width, height) + np.ascontiguousarray(pixels).tobytes()

    def _images(self) -> Rows:
        arrays = self._opened()
        fitting = [name for name, rows in arrays.items() if _is_images(rows)]
        if self.options.image is not None and self.options.image not in arrays:
            raise UnknownNameError(f"array in {self.location}", self.options.image, arrays)
        name = chosen_column(self.options.image, (*_IMAGES, *(fitting if len(fitting) == 1 else ())), fitting)
        if name is None or name not in fitting:
            described = ", ".join(f"{key} {list(rows.shape)} {rows.dtype}" for key, rows in arrays.items())
            raise UsageError(
                f"no array of {self.location} is surely the images; it has {described or 'none'}",
                hint=(
                    "images are uint8 of shape [N, H, W], [N, H, W, C] or [N, C, H, W] with C = 1 or 3; "
                    f"name them: '{self.location}?image=NAME'"
                ),
            )
        return arrays[name]

    def _opened(self) -> Mapping[str, Rows]:
        if not self._arrays:
            if self.location.endswith(".npy"):
                self._arrays.update(images=Rows(*open_npy(self.files, self.location)))
            elif self.location.endswith(".npz"):
                self._arrays.update({name: Rows(*rows) for name, rows in open_npz(self.files, self.location).items()})
            else:
                self._arrays.update(_open_zarr(self.location))
        return self._arrays

    def _hint(self) -> tuple[int, int]:
        """Size and time of the file; of a Zarr folder, of its metadata."""
        location = self.location
        if not location.endswith((".npy", ".npz")):
            names = (name for name in ("zarr.json", ".zgroup", ".zarray") if (Path(location) / name).is_file())
            location = str(Path(location) / next(names))
        found = self.files.stat(location)
        return found.size, found.mtime_ns


def _is_images(rows: Rows) -> bool:
    if rows.dtype != np.uint8 or len(rows.shape) not in (3, 4) or min(rows.shape[1:]) < 1:
        return False
    return len(rows.shape) == 3 or rows.shape[3] in (1, 3) or rows.shape[1] in (1, 3)


def _open_zarr(location: str) -> dict[str, Rows]:
    if is_remote(location):
        raise UsageError(
            f"{location}: Zarr arrays of images are read from a local folder only",
            hint="copy it here first, or keep the images as tar or parquet files in the object store",
        )
    folder = Path(location)
    if not is_zarr(folder):
        raise BadInputError(f"{location} is no Zarr folder", hint="it needs a zarr.json, .zgroup or .zarray")
    found: dict[str, Rows] = {}
    for path in zarr_arrays(folder):
        described = describe_zarr(path)
        described.check_stored()
        array = described.open()

        def take(start: int, stop: int, array: Any = array) -> NDArray[Any]:
            return np.asarray(array[start:stop])

        name = "images" if path == folder else path.relative_to(folder).as_posix()
        found[name] = Rows(described.shape, np.dtype(array.dtype), take)
    return found


def _listed(values: NDArray[Any]) -> list[ColumnValue]:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    return [plain_value(value) for value in values.tolist()]


def _class_names(arrays: Mapping[str, Rows]) -> list[str] | None:
    name = chosen_column(None, _CLASS_NAMES, arrays)
    if name is None or len(arrays[name].shape) != 1 or arrays[name].dtype.kind not in "UST":
        return None
    return [str(text) for text in _listed(arrays[name].take(0, arrays[name].shape[0]))]
