"""Row ids: UTF-8 bytes with offsets, and a sorted hash index that finds a row without reading the others."""

from __future__ import annotations

import unicodedata
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
_MANY = 64  # ids looked up together are found faster by one search over whole arrays
_BLOCK_ROWS = 65536


class _Block:
    """The ids of one segment."""

    def __init__(self, files: Files, key: str, rows: int) -> None:
        self._files = files
        self._key = key
        self.rows = rows

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

    def get(self, row: int) -> str:
        offsets = self._offsets.span(row, row + 2)
        return self._bytes.span(int(offsets[0]), int(offsets[1])).tobytes().decode()

    def texts(self, start: int, stop: int) -> list[str]:
        """The ids of rows [start, stop)."""
        offsets = self._offsets.span(start, stop + 1).tolist()
        data = self._bytes.span(offsets[0], offsets[-1]).tobytes()
        first = offsets[0]
        return [data[a - first : b - first].decode() for a, b in pairwise(offsets)]

    def find(self, text: str, digest: int) -> int:
        """Row of an id, −1 if it is not here."""
        return self._match(text, digest, self._hashes.find(np.uint64(digest)))

    def find_many(self, texts: Sequence[str], digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of each id, −1 where it is not here."""
        hashes = self._hashes.whole()
        self._order.whole()
        self._offsets.whole()
        self._bytes.whole()
        positions = np.searchsorted(hashes, digests)
        rows = np.full(len(texts), -1, dtype=np.int64)
        hits = np.flatnonzero(hashes[np.minimum(positions, self.rows - 1)] == digests)
        for number in hits.tolist():
            rows[number] = self._match(texts[number], int(digests[number]), int(positions[number]))
        return rows

    def _match(self, text: str, digest: int, position: int) -> int:
        # equal hashes are told apart by the bytes
        while position < self.rows and int(self._hashes[position]) == digest:
            row = int(self._order[position])
            if not 0 <= row < self.rows:
                raise CorruptStoreError(f"the id index of {self._key} names row {row} of {self.rows}")
            if self.get(row) == text:
                return row
            position += 1
        return -1


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
        return [self[int(row)] for row in rows]

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each id, int64 [len(ids)]; −1 where the dataset has no such id. Ids are compared in Unicode form NFC."""
        texts = [_normal(raw) for raw in ids]
        digests = np.array([_hash(text) for text in texts], dtype=np.uint64)
        rows = np.full(len(texts), -1, dtype=np.int64)
        for start, block in zip(self._starts, self._blocks, strict=True):
            if len(texts) < _MANY:
                found = np.array([block.find(*pair) for pair in zip(texts, digests.tolist(), strict=True)], np.int64)
            else:
                found = block.find_many(texts, digests)
            # an id that was removed may have come again in a later segment
            there = (found >= 0) & ~self._is_removed(found + start)
            rows[there] = found[there] + start
        return rows

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
        text = _normal(raw)
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


def _normal(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _hash(text: str) -> int:
    # lone surrogates, which no stored id has, must not keep a lookup from saying so
    return int.from_bytes(blake3(text.encode(errors="surrogatepass")).digest(8), "little")
