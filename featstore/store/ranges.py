"""Some rows of a shard in an object store, fetched without the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError
from featstore.store.files import Files
from featstore.store.zarr_format import CRC_BYTES, check_chunks

__all__ = ["ShardLayout", "Spans", "spans_of"]

# a chunk of which so large a part is wanted is fetched whole, and its checksum checked
_DENSE = 1 / 4
# the space between two spans that costs less to transfer than another request (obstore fetches it along, too)
_GAP_BYTES = 1 << 20


class ShardLayout(NamedTuple):
    """The regular stride of a shard."""

    row_bytes: int
    chunk_rows: int

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk's rows."""
        return self.row_bytes * self.chunk_rows


class _Span(NamedTuple):
    """Bytes [start, stop) of the shard; `rows` of them are wanted, counted from the first; None for a run of rows as it is."""

    start: int
    stop: int
    rows: NDArray[np.int64] | None


class Spans(NamedTuple):
    """What to fetch for some rows.

    Attributes:
        layout: Of the shard.
        spans: Whole chunks and runs of rows, in order of the shard.
        inverse: Where each wanted row stands among the rows of the spans.
    """

    layout: ShardLayout
    spans: list[_Span]
    inverse: NDArray[np.int64]

    @property
    def transferred(self) -> int:
        """Bytes that fetching them transfers, small gaps included."""
        gaps = (after.start - before.stop for before, after in pairwise(self.spans))
        return sum(span.stop - span.start for span in self.spans) + sum(gap for gap in gaps if gap <= _GAP_BYTES)

    def fetch(self, files: Files, key: str, index: tuple[int, int] | None) -> tuple[NDArray[Any], bytes | None]:
        """The rows as opaque items in the order they were asked for, and the shard's index where it was asked for.

        Raises:
            CorruptStoreError: the shard ends too early, or a whole chunk does not match its checksum.
        """
        ranges = [(span.start, span.stop) for span in self.spans]
        if index is not None:
            ranges.append(index)
        parts = files.get_ranges(key, ranges)
        if any(len(part) != stop - start for part, (start, stop) in zip(parts, ranges, strict=True)):
            raise CorruptStoreError(f"{files.where(key)} ends too early")
        found = parts.pop() if index is not None else None
        item = np.dtype((np.void, self.layout.row_bytes))
        rows = []
        for span, part in zip(self.spans, parts, strict=True):
            if span.rows is None:
                rows.append(np.frombuffer(part, dtype=item))
                continue
            chunk_bytes = self.layout.chunk_bytes
            check_chunks(
                memoryview(part), chunk_bytes, where=files.where(key), first=span.start // (chunk_bytes + CRC_BYTES)
            )
            rows.append(np.frombuffer(part, dtype=item, count=self.layout.chunk_rows)[span.rows])
        return np.concatenate(rows)[self.inverse], found


def spans_of(layout: ShardLayout, rows: NDArray[np.int64]) -> Spans:
    """What to fetch for some rows of a shard, any order, repeats allowed, at least one."""
    unique, inverse = np.unique(rows, return_inverse=True)
    return Spans(layout, list(_spans(layout, unique)), inverse)


def _spans(layout: ShardLayout, rows: NDArray[np.int64]) -> Iterator[_Span]:
    chunks, firsts, counts = np.unique(rows // layout.chunk_rows, return_index=True, return_counts=True)
    for chunk, first, count in zip(chunks.tolist(), firsts.tolist(), counts.tolist(), strict=True):
        begin = chunk * (layout.chunk_bytes + CRC_BYTES)
        inside = rows[first : first + count] - chunk * layout.chunk_rows
        if count >= layout.chunk_rows * _DENSE:
            yield _Span(begin, begin + layout.chunk_bytes + CRC_BYTES, inside)
            continue
        for run in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1):
            start, stop = int(run[0]), int(run[-1]) + 1
            yield _Span(begin + start * layout.row_bytes, begin + stop * layout.row_bytes, None)
