"""Which gallery rows are right answers to a query, and which do not take part in its ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from featstore.errors import AlignmentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ByLabel", "Listed", "Relevance"]


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
        return _listed(query[others], rows[others], stop - start)

    def excluded(self, start: int, stop: int) -> Listed:
        """The query's own row."""
        own = self._self[start:stop]
        query = np.flatnonzero(own >= 0)
        return _listed(query, own[query].astype(np.int32), stop - start)


def _listed(query: NDArray[np.int64], rows: NDArray[np.int32], n_queries: int) -> Listed:
    offsets = np.zeros(n_queries + 1, np.int64)
    np.cumsum(np.bincount(query, minlength=n_queries), out=offsets[1:])
    return Listed(offsets, np.ascontiguousarray(rows))
