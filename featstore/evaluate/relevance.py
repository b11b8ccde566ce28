"""Which gallery rows are right answers to a query, and which do not take part in its ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from blake3 import blake3

from featstore.errors import AlignmentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ByLabel", "ByList", "Listed", "OtherCameras", "Relevance", "WithDistractors", "digest_of", "listed"]


class Listed(NamedTuple):
    """Some gallery rows for each query of a block: those of query q are rows[offsets[q]:offsets[q + 1]], ascending.

    Attributes:
        offsets: int64 [Q + 1].
        rows: int32 [total]; a ranking is limited to 2^31 gallery rows.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]


class Relevance(Protocol):
    """The ground truth of a retrieval protocol, asked for one block of queries at a time."""

    @property
    def n_queries(self) -> int:
        """Queries in all."""

    @property
    def n_gallery(self) -> int:
        """Gallery rows in all."""

    def n_positives(self) -> NDArray[np.int64]:
        """Positives of each query (R), [Q]."""

    def positives(self, start: int, stop: int) -> Listed:
        """Gallery rows that answer the queries [start, stop). None of them is excluded."""

    def excluded(self, start: int, stop: int) -> Listed:
        """Gallery rows that are removed from the rankings of the queries [start, stop) (the query itself, junk)."""

    def digest(self) -> bytes:
        """What this ground truth says, in 32 bytes."""


class ByLabel:
    """A gallery row answers a query when both have the same label; the query's own row is excluded.

    Args:
        query_labels: Integers [Q]; negative is unlabelled and has no positives.
        gallery_labels: Integers [G], from the same table; negative rows answer nothing (distractors).
        self_rows: The gallery row that *is* the query, int64 [Q], −1 where there is none; None when there is none at
            all.

    Raises:
        AlignmentError: `self_rows` has another length than the queries, or points outside the gallery.
    """

    def __init__(
        self,
        query_labels: NDArray[np.integer],
        gallery_labels: NDArray[np.integer],
        self_rows: NDArray[np.integer] | None = None,
    ) -> None:
        self._query = np.asarray(query_labels, np.int64)
        gallery = np.asarray(gallery_labels, np.int64)
        self._self = np.full(len(self._query), -1) if self_rows is None else np.asarray(self_rows, np.int64)
        if len(self._self) != len(self._query):
            raise AlignmentError(f"{len(self._self)} self rows for {len(self._query)} queries")
        if len(self._self) and not -1 <= self._self.min() <= self._self.max() < len(gallery):
            raise AlignmentError(
                f"a self row is {self._self.min()} to {self._self.max()}, the gallery has rows 0 to {len(gallery) - 1}",
                hint="self rows are gallery rows, -1 where the query is not in the gallery",
            )
        self._gallery = gallery
        self._n_gallery = len(gallery)
        self._by_label = np.argsort(gallery, kind="stable").astype(np.int32)
        ordered = gallery[self._by_label]
        self._first = np.searchsorted(ordered, self._query, side="left")
        self._count = np.searchsorted(ordered, self._query, side="right") - self._first
        self._count[self._query < 0] = 0
        if len(gallery):
            own_label = np.where(self._self >= 0, gallery[self._self], -1)
            self._own = ((own_label == self._query) & (self._query >= 0)).astype(np.int64)
        else:
            self._own = np.zeros(len(self._query), np.int64)

    @property
    def n_queries(self) -> int:
        """Queries in all."""
        return len(self._query)

    @property
    def n_gallery(self) -> int:
        """Gallery rows in all."""
        return self._n_gallery

    def n_positives(self) -> NDArray[np.int64]:
        """Gallery rows with the query's label, [Q], without the query itself."""
        return np.asarray(self._count - self._own)

    def positives(self, start: int, stop: int) -> Listed:
        """Gallery rows with the query's label, without the query itself."""
        count = self._count[start:stop]
        ends = np.cumsum(count)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - count, count)
        rows = self._by_label[np.repeat(self._first[start:stop], count) + within]
        query = np.repeat(np.arange(stop - start), count)
        others = rows != self._self[start:stop][query]
        return listed(query[others], rows[others], stop - start)

    def excluded(self, start: int, stop: int) -> Listed:
        """The query's own row."""
        own = self._self[start:stop]
        query = np.flatnonzero(own >= 0)
        return listed(query, own[query].astype(np.int32), stop - start)

    def digest(self) -> bytes:
        """What this ground truth says, in 32 bytes."""
        return digest_of(self._query, self._gallery, self._self)


class OtherCameras:
    """As labels say, but a right answer has to come from another camera; from the query's own camera it is junk.

    Args:
        by_label: Which rows have the query's identity.
        query_cameras: Integers [Q]; negative is unknown and equals no camera.
        gallery_cameras: Integers [G], from the same table.
    """

    def __init__(
        self, by_label: ByLabel, query_cameras: NDArray[np.integer], gallery_cameras: NDArray[np.integer]
    ) -> None:
        self._base = by_label
        self._query = np.asarray(query_cameras)
        self._gallery = np.asarray(gallery_cameras)

    @property
    def n_queries(self) -> int:
        """Queries in all."""
        return self._base.n_queries

    @property
    def n_gallery(self) -> int:
        """Gallery rows in all."""
        return self._base.n_gallery

    def n_positives(self) -> NDArray[np.int64]:
        """Rows of the query's identity that another camera saw, [Q]."""
        step = 1024
        counts = [
            np.diff(self.positives(start, min(start + step, self.n_queries)).offsets)
            for start in range(0, self.n_queries, step)
        ]
        return np.concatenate([np.zeros(0, np.int64), *counts])

    def positives(self, start: int, stop: int) -> Listed:
        """Rows of the query's identity that another camera saw."""
        query, rows, same = self._by_camera(start, stop)
        return listed(query[~same], rows[~same], stop - start)

    def excluded(self, start: int, stop: int) -> Listed:
        """Rows of the query's identity from its own camera, and the query itself."""
        query, rows, same = self._by_camera(start, stop)
        own = self._base.excluded(start, stop)
        query = np.concatenate([query[same], _owners(own)])
        rows = np.concatenate([rows[same], own.rows])
        order = np.lexsort((rows, query))
        return listed(query[order], rows[order], stop - start)

    def digest(self) -> bytes:
        """What this ground truth says, in 32 bytes."""
        return digest_of(self._base.digest(), self._query, self._gallery)

    def _by_camera(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_]]:
        found = self._base.positives(start, stop)
        query = _owners(found)
        camera = self._query[start:stop][query]
        return query, found.rows, (camera == self._gallery[found.rows]) & (camera >= 0)


class ByList:
    """Right answers and junk of every query as lists.

    Args:
        positives: Gallery rows that answer each query.
        junk: Gallery rows that are removed from each query's ranking; disjoint from the positives.
        n_gallery: Gallery rows in all.

    Raises:
        AlignmentError: The lists are of different numbers of queries, name rows outside the gallery, or overlap.
    """

    def __init__(self, positives: Listed, junk: Listed, n_gallery: int) -> None:
        if len(positives.offsets) != len(junk.offsets):
            raise AlignmentError(f"answers of {len(positives.offsets) - 1} queries, junk of {len(junk.offsets) - 1}")
        for rows in (positives.rows, junk.rows):
            if len(rows) and not 0 <= rows.min() <= rows.max() < n_gallery:
                raise AlignmentError(f"a listed row is outside the gallery of {n_gallery} rows")
        pairs = np.concatenate([_owners(part) * n_gallery + part.rows for part in (positives, junk)])
        if len(np.unique(pairs)) < len(pairs):
            raise AlignmentError("a gallery row is listed twice for one query, or is both an answer and junk")
        self._positives = positives
        self._junk = junk
        self._n_gallery = n_gallery

    @property
    def n_queries(self) -> int:
        """Queries in all."""
        return len(self._positives.offsets) - 1

    @property
    def n_gallery(self) -> int:
        """Gallery rows in all."""
        return self._n_gallery

    def n_positives(self) -> NDArray[np.int64]:
        """Right answers of each query, [Q]."""
        return np.diff(self._positives.offsets)

    def positives(self, start: int, stop: int) -> Listed:
        """Gallery rows that answer the queries [start, stop)."""
        return _part(self._positives, start, stop)

    def excluded(self, start: int, stop: int) -> Listed:
        """Junk of the queries [start, stop)."""
        return _part(self._junk, start, stop)

    def digest(self) -> bytes:
        """What this ground truth says, in 32 bytes."""
        return digest_of(*self._positives, *self._junk, np.array([self._n_gallery]))


class WithDistractors:
    """The same ground truth for a gallery with further rows at its end that answer nothing."""

    def __init__(self, relevance: Relevance, distractors: int) -> None:
        self._base = relevance
        self.n_queries = relevance.n_queries
        self.n_gallery = relevance.n_gallery + distractors
        self.n_positives = relevance.n_positives
        self.positives = relevance.positives
        self.excluded = relevance.excluded

    def digest(self) -> bytes:
        """What this ground truth says, in 32 bytes."""
        return digest_of(self._base.digest(), np.array([self.n_gallery]))


def digest_of(*parts: bytes | NDArray[np.generic]) -> bytes:
    """32 bytes that stand for some arrays."""
    hasher = blake3()
    for part in parts:
        if isinstance(part, bytes):
            hasher.update(part)
        else:
            hasher.update(f"{part.dtype.str}{part.shape}".encode())
            hasher.update(np.ascontiguousarray(part).tobytes())
    return hasher.digest()


def _owners(found: Listed) -> NDArray[np.int64]:
    """The query that each listed row belongs to, [total]."""
    return np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets))


def _part(found: Listed, start: int, stop: int) -> Listed:
    offsets = found.offsets[start : stop + 1]
    return Listed(offsets - offsets[0], found.rows[offsets[0] : offsets[-1]])


def listed(query: NDArray[np.int64], rows: NDArray[np.int32], n_queries: int) -> Listed:
    """Rows [total] with the query of each, ascending by query and then by row, as lists."""
    offsets = np.zeros(n_queries + 1, np.int64)
    np.cumsum(np.bincount(query, minlength=n_queries), out=offsets[1:])
    return Listed(offsets, np.ascontiguousarray(rows))
