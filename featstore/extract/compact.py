"""Many items of a source in arrays, without a Python object for each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import BadInputError, sample_of
from featstore.sources import NOWHERE, ColumnValue, Item, Place
from featstore.store import Categories, NewRows, column_name

__all__ = ["CompactItems"]

_MAX_NAMES = 1 << 20  # more different texts in a column are no categories: captions, addresses
_OWN = frozenset({"id", "ids", "label", "size", "mtime_ns", "source_file", "source_position"})


class _Names:
    """A column of names as codes, −1 where there is none."""

    def __init__(self, missing: int = 0) -> None:
        self._codes = array("i", [-1]) * missing
        self._code: dict[str, int] = {}

    def append(self, text: str | None) -> None:
        self._codes.append(-1 if text is None else self._code.setdefault(text, len(self._code)))

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def names(self) -> int:
        return len(self._code)

    def at(self, chosen: NDArray[np.int64]) -> Categories:
        """Some rows, with only the names that occur there, sorted."""
        used = np.frombuffer(self._codes, dtype=np.int32)[chosen] if len(self._codes) else np.zeros(0, dtype=np.int32)
        texts = list(self._code)
        codes = np.unique(used[used >= 0]).tolist()
        names = sorted(texts[code] for code in codes)
        table = np.full(len(texts) + 1, -1, dtype=np.int32)  # code −1 takes the last entry
        table[[self._code[name] for name in names]] = np.arange(len(names), dtype=np.int32)
        return Categories(table[used], tuple(names))


class _Numbers:
    """A column of numbers: integers until a fraction or a missing value comes, floats from then on."""

    def __init__(self, missing: int = 0) -> None:
        self._values: array[Any] = array("d", [float("nan")]) * missing if missing else array("q")

    def append(self, value: float | None) -> None:
        if self._values.typecode == "q" and not isinstance(value, int):
            self._values = array("d", self._values)
        self._values.append(float("nan") if value is None else value)

    def __len__(self) -> int:
        return len(self._values)

    def at(self, chosen: NDArray[np.int64]) -> NDArray[Any]:
        kind = np.int64 if self._values.typecode == "q" else np.float64
        return np.frombuffer(self._values, dtype=kind)[chosen]


class CompactItems:
    """A growing list of items.

    Attributes:
        left_out: Why a column is not kept, by its name.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])
        self._hashes = array("q")
        self._sizes = array("q")
        self._times = array("q")
        self._labels = _Names()
        self._files = _Names()
        self._positions = array("q")
        self._placed = False
        self._columns: dict[str, _Names | _Numbers] = {}
        self._named: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def extend(self, items: Iterable[Item]) -> None:
        """Add items at the end."""
        for item in items:
            self._text += item.id.encode()
            self._ends.append(len(self._text))
            self._hashes.append(hash(item.id))
            self._sizes.append(item.size)
            self._times.append(item.mtime_ns)
            self._labels.append(item.label)
            self._placed |= item.place is not NOWHERE
            self._files.append(item.place.file)
            self._positions.append(item.place.position)
            if item.columns or self._columns:
                self._add_columns(item.columns)

    def check_ids(self) -> None:
        """Refuse ids that stand there twice.

        Raises:
            BadInputError: naming some.
        """
        hashes = np.frombuffer(self._hashes, dtype=np.int64) if len(self) else np.zeros(0, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        equal = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        suspects = np.unique(np.concatenate([order[equal], order[equal + 1]]))
        seen: dict[str, None] = {}
        twice = [text for text in self.ids(suspects) if text in seen or seen.setdefault(text)]
        if twice:
            raise BadInputError(
                f"{len(twice)} ids stand in the source twice: {sample_of(twice)}",
                hint="every image needs its own id: take another id column, or ?prefix=file where tar files repeat names",
            )

    def ids(self, chosen: NDArray[np.int64]) -> list[str]:
        """The ids of some items."""
        ends = self._ends
        return [self._text[ends[k] : ends[k + 1]].decode() for k in chosen.tolist()]

    def places(self, chosen: NDArray[np.int64]) -> list[tuple[str, Place]]:
        """Id and place of some items."""
        if not self._placed:
            return [(id_, NOWHERE) for id_ in self.ids(chosen)]
        files = self._files.at(chosen).texts()
        positions = [self._positions[k] for k in chosen.tolist()]
        found = [Place(file or "", position) for file, position in zip(files, positions, strict=True)]
        return list(zip(self.ids(chosen), found, strict=True))

    def rows(self, chosen: NDArray[np.int64]) -> NewRows:
        """Some items as rows of a dataset."""
        columns: dict[str, NDArray[Any] | Sequence[str | None] | Categories] = {}
        if self._labels.names:
            columns["label"] = self._labels.at(chosen)
        columns["size"] = np.frombuffer(self._sizes, dtype=np.int64)[chosen]
        columns["mtime_ns"] = np.frombuffer(self._times, dtype=np.int64)[chosen]
        if self._placed:
            columns["source_file"] = self._files.at(chosen)
            columns["source_position"] = np.frombuffer(self._positions, dtype=np.int64)[chosen]
        for name, column in self._columns.items():
            columns[name] = column.at(chosen)
        return NewRows(ids=self.ids(chosen), columns=columns)

    def _add_columns(self, given: Mapping[str, ColumnValue]) -> None:
        """Add a row of columns; the columns that it lacks get a missing value."""
        before = len(self) - 1
        for key, value in given.items():
            if key in self.left_out:
                continue
            name = self._named.get(key) or self._name(key)
            column = self._columns.get(name)
            if column is None:
                if value is None:
                    continue  # its kind is not known yet
                column = self._columns[name] = _Names(before) if isinstance(value, str) else _Numbers(before)
            if isinstance(column, _Names):
                column.append(value if value is None or isinstance(value, str) else str(value))
                if column.names > _MAX_NAMES:
                    self._leave_out(key, name, f"it has more than {_MAX_NAMES:,} different texts")
            elif isinstance(value, str):
                self._leave_out(key, name, f"it is a number in some rows and '{value[:40]}' in another")
            else:
                column.append(value)
        for column in self._columns.values():
            if len(column) <= before:
                column.append(None)

    def _name(self, key: str) -> str:
        """The dataset's name of a column, other than those that every extraction writes and those taken."""
        plain = column_name(key)
        taken = {*self._named.values(), *_OWN}
        name = f"other_{plain}" if plain in _OWN else plain
        while name in taken:
            name += "_2"
        self._named[key] = name
        return name

    def _leave_out(self, key: str, name: str, why: str) -> None:
        del self._columns[name]
        self.left_out[key] = why
