"""Row ids: UTF-8 bytes with offsets, and a sorted hash index that finds a row without reading the others."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import BadInputError, CorruptStoreError, sample_of
from featstore.store.arrays import GroupWriter, StoredArray
from featstore.store.files import Files

__all__ = ["Ids", "check_ids", "write_ids"]

_MAX_BYTES = 8192
_FEW_IDS = 64  # more of them are found faster together
_FEW_ROWS = 1 << 21  # ids of so many rows are kept from the first lookup on
_MANY_LOOKUPS = 1000
_BLOCK_ROWS = 65536


class _Block:
    """The ids of one segment. Long arrays are read where a lookup touches them, until so many come that all is kept."""

    def __init__(self, files: Files, key: str, rows: int) -> None:
        self._files = files
        self._key = key
        self.rows = rows
        self._lookups = 0

    @cached_property
    def _offsets(self) -> StoredArray:
        return StoredArray(self._files, f"{self._key}/ids/offsets", self.rows + 1)

    @cached_property
    def _bytes(self) -> StoredArray:
        return StoredArray(self._files, f"{self._key}/ids/bytes", int(self._offsets[self.rows]))

    @cached_property
    def _hashes(self) -> StoredArray:
        return StoredArray(self._files, f"{self._key}/id_index/hash", self.rows)

    @cached_property
    def _order(self) -> StoredArray:
        return StoredArray(self._files, f"{self._key}/id_index/row", self.rows)

    @cached_property
    def _kept(self) -> _KeptIds:
        parts = (self._offsets, self._bytes, self._hashes, self._order)
        return _KeptIds(*(part.whole() for part in parts), where=self._files.where(self._key))

    def get(self, row: int) -> str:
        offsets = self._offsets.span(row, row + 2)
        return self._bytes.span(int(offsets[0]), int(offsets[1])).tobytes().decode()

    def texts(self, start: int, stop: int) -> list[str]:
        """The ids of rows [start, stop)."""
        offsets = self._offsets.span(start, stop + 1).tolist()
        data = self._bytes.span(offsets[0], offsets[-1]).tobytes()
        first = offsets[0]
        return [data[a - first : b - first].decode() for a, b in pairwise(offsets)]

    def take(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of some rows."""
        offsets, data = self._offsets.whole(), self._bytes.whole().tobytes()
        pairs = zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
        return [data[start:stop].decode() for start, stop in pairs]

    def find(self, text: bytes, digest: int) -> int:
        """Row of an id, −1 if it is not here."""
        if self.rows <= _FEW_ROWS or self._lookups >= _MANY_LOOKUPS:
            return self._kept.find(text, digest)
        self._lookups += 1
        position = self._hashes.find(np.uint64(digest))
        while position < self.rows and int(self._hashes[position]) == digest:
            row = _checked_row(int(self._order[position]), self.rows, self._files.where(self._key))
            if self.get(row).encode() == text:
                return row
            position += 1
        return -1

    def find_many(self, texts: Sequence[bytes], digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of each id, −1 where it is not here."""
        self._lookups += len(texts)
        hashes = self._hashes.whole()
        positions = np.searchsorted(hashes, digests)
        rows = np.full(len(texts), -1, dtype=np.int64)
        hits = np.flatnonzero(hashes[np.minimum(positions, self.rows - 1)] == digests)
        for number in hits.tolist():
            rows[number] = self._kept.match(texts[number], int(digests[number]), int(positions[number]))
        return rows


class _KeptIds:
    """The ids of a segment and their index in memory, laid out for lookups one by one (a few µs each)."""

    def __init__(
        self,
        offsets: NDArray[np.int64],
        data: NDArray[np.uint8],
        hashes: NDArray[np.uint64],
        order: NDArray[np.int64],
        *,
        where: str,
    ) -> None:
        # items of a memoryview are Python integers, several times cheaper to take one by one than numpy's
        self._offsets = np.ascontiguousarray(offsets, np.int64).data
        self._data = data.tobytes()
        self._hashes = np.ascontiguousarray(hashes, np.uint64).data
        self._order = np.ascontiguousarray(order, np.int64).data
        self._where = where

    def find(self, text: bytes, digest: int) -> int:
        return self.match(text, digest, bisect_left(self._hashes, digest))

    def match(self, text: bytes, digest: int, position: int) -> int:
        """Row of an id whose hash stands at a position or right after it; equal hashes are told apart by the bytes."""
        rows = len(self._hashes)
        while position < rows and self._hashes[position] == digest:
            row = _checked_row(self._order[position], rows, self._where)
            if self._data[self._offsets[row] : self._offsets[row + 1]] == text:
                return row
            position += 1
        return -1


def _checked_row(row: int, rows: int, where: str) -> int:
    if not 0 <= row < rows:
        raise CorruptStoreError(f"the id index of {where} names row {row} of {rows}")
    return row


class Ids:
    """The ids of a dataset in row order, without holding a Python string for each.

    Args:
        files: The store's files.
        parts: (key of a segment, first row, end row) in row order.
        removed: Gives the rows that are no longer there, ascending; they keep their ids, but are not found by them.
    """

    def __init__(
        self, files: Files, parts: list[tuple[str, int, int]], removed: Callable[[], NDArray[np.int64]]
    ) -> None:
        self._starts = [start for _, start, _ in parts]
        self._blocks = [_Block(files, key, stop - start) for key, start, stop in parts]
        self._length = parts[-1][2] if parts else 0
        self._removed = removed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise IndexError(row)
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._blocks[part].get(row - self._starts[part])

    def __iter__(self) -> Iterator[str]:
        for block in self._blocks:
            for start in range(0, block.rows, _BLOCK_ROWS):
                yield from block.texts(start, min(block.rows, start + _BLOCK_ROWS))

    def take(self, rows: Iterable[int]) -> list[str]:
        """The ids of some rows, in the order given."""
        wanted = np.fromiter(rows, dtype=np.int64)
        if len(wanted) < _FEW_IDS:
            return [self[row] for row in wanted.tolist()]
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        part = np.searchsorted(self._starts, wanted, side="right") - 1
        if part.min() == part.max():
            number = int(part[0])
            return self._blocks[number].take(wanted - self._starts[number])
        taken = [""] * len(wanted)
        for number in np.unique(part).tolist():
            places = np.flatnonzero(part == number)
            texts = self._blocks[number].take(wanted[places] - self._starts[number])
            for place, text in zip(places.tolist(), texts, strict=True):
                taken[place] = text
        return taken

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each id, int64 [len(ids)]; −1 where the dataset has no such id. Ids are compared in Unicode form NFC."""
        if len(ids) < _FEW_IDS:
            return np.array([self.row_of(text) for text in ids], dtype=np.int64)
        texts = [_normal(raw) for raw in ids]
        digests = np.array([_hash(text) for text in texts], dtype=np.uint64)
        rows = np.full(len(texts), -1, dtype=np.int64)
        for start, block in zip(self._starts, self._blocks, strict=True):
            found = block.find_many(texts, digests)
            # an id that was removed may have come again in a later segment
            there = (found >= 0) & ~self._is_removed(found + start)
            rows[there] = found[there] + start
        return rows

    def row_of(self, id_: str) -> int:
        """Row of one id, −1 if the dataset has no such id; faster than `rows_of` for one."""
        text = _normal(id_)
        digest = _hash(text)
        for start, block in zip(self._starts, self._blocks, strict=True):
            found = block.find(text, digest)
            if found >= 0 and not (len(self._removed()) and self._is_removed(np.array([start + found]))[0]):
                return start + found
        return -1

    def _is_removed(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        removed = self._removed()
        if not len(removed):
            return np.zeros(len(rows), dtype=bool)
        return np.asarray(removed[np.minimum(np.searchsorted(removed, rows), len(removed) - 1)] == rows)


def check_ids(ids: Iterable[str]) -> list[str]:
    """The ids in Unicode form NFC.

    Raises:
        BadInputError: an id is empty, longer than 8 KiB, holds a NUL or no valid text, or stands there twice.
    """
    checked: list[str] = []
    seen: dict[str, None] = {}
    twice: list[str] = []
    for raw in ids:
        text = raw if raw.isascii() else unicodedata.normalize("NFC", raw)
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
    hashes = np.array([_hash(text.encode()) for text in ids], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    writer.array("id_index/hash", hashes[order])
    writer.array("id_index/row", order)


def _normal(text: str) -> bytes:
    # lone surrogates, which no stored id has, must not keep a lookup from saying so
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).encode(errors="surrogatepass")


def _hash(text: bytes) -> int:
    return int.from_bytes(blake3(text).digest(8), "little")
