"""Row ids: UTF-8 bytes with offsets, and a sorted hash index that finds a row without reading the others."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import BadInputError, sample_of
from featstore.store.arrays import GroupWriter, read_array
from featstore.store.files import LocalFiles

__all__ = ["Ids", "check_ids", "write_ids"]

_MAX_BYTES = 8192


class _Block:
    """The ids of one segment, loaded on first use."""

    def __init__(self, files: LocalFiles, key: str, rows: int) -> None:
        self.offsets = read_array(files, f"{key}/ids/offsets", rows + 1)
        self.data = read_array(files, f"{key}/ids/bytes", int(self.offsets[-1])).tobytes()
        self.hashes = read_array(files, f"{key}/id_index/hash", rows)
        self.order = read_array(files, f"{key}/id_index/row", rows)

    def get(self, row: int) -> str:
        return self.data[self.offsets[row] : self.offsets[row + 1]].decode()

    def find(self, text: str, digest: int) -> int:
        """Row of an id, −1 if it is not here; equal hashes are told apart by the bytes."""
        position = int(np.searchsorted(self.hashes, np.uint64(digest)))
        while position < len(self.hashes) and int(self.hashes[position]) == digest:
            row = int(self.order[position])
            if self.get(row) == text:
                return row
            position += 1
        return -1


class Ids:
    """The ids of a dataset in row order, without holding a Python string for each.

    Args:
        files: The store's files.
        parts: (key of a segment, first row, end row) in row order.
    """

    def __init__(self, files: LocalFiles, parts: list[tuple[str, int, int]]) -> None:
        self._files = files
        self._parts = parts
        self._starts = [start for _, start, _ in parts]
        self._blocks: dict[int, _Block] = {}

    def __len__(self) -> int:
        return self._parts[-1][2] if self._parts else 0

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise IndexError(row)
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._block(part).get(row - self._starts[part])

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: Iterable[int]) -> list[str]:
        """The ids of some rows, in the order given."""
        return [self[int(row)] for row in rows]

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each id, int64 [len(ids)]; −1 where the dataset has no such id. Ids are compared in Unicode form NFC."""
        rows = np.full(len(ids), -1, dtype=np.int64)
        for number, raw in enumerate(ids):
            text = unicodedata.normalize("NFC", raw)
            digest = _hash(text)
            for part, start in enumerate(self._starts):
                found = self._block(part).find(text, digest)
                if found >= 0:
                    rows[number] = start + found
        return rows

    def _block(self, part: int) -> _Block:
        if part not in self._blocks:
            key, start, stop = self._parts[part]
            self._blocks[part] = _Block(self._files, key, stop - start)
        return self._blocks[part]


def check_ids(ids: Iterable[str]) -> list[str]:
    """The ids in Unicode form NFC.

    Raises:
        BadInputError: an id is empty, longer than 8 KiB, holds a NUL or no valid text, or stands there twice.
    """
    checked: list[str] = []
    seen: dict[str, None] = {}
    twice: list[str] = []
    for raw in ids:
        text = unicodedata.normalize("NFC", raw)
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise BadInputError(f"the id {raw!r} is not valid text", hint="rename it") from None
        if not 0 < size <= _MAX_BYTES or "\0" in text:
            raise BadInputError(
                f"the id {text[:60]!r} is empty, too long or holds a NUL", hint="ids are 1 to 8,192 bytes"
            )
        if text in seen:
            twice.append(text)
        seen[text] = None
        checked.append(text)
    if twice:
        raise BadInputError(
            f"{len(twice)} ids stand there twice: {sample_of(twice)}", hint="every row needs its own id"
        )
    return checked


def write_ids(writer: GroupWriter, ids: list[str]) -> None:
    """Add checked ids and their index to a segment."""
    writer.strings("ids", ids)
    hashes = np.array([_hash(text) for text in ids], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    writer.array("id_index/hash", hashes[order])
    writer.array("id_index/row", order)


def _hash(text: str) -> int:
    return int.from_bytes(blake3(text.encode()).digest(8), "little")
