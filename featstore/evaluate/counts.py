"""What counting finds out about each positive, and the ranks that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from featstore.errors import AlignmentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["RankCounts", "TieOrder"]

TieOrder = Literal["row", "best", "worst"]


@dataclass(frozen=True, slots=True)
class RankCounts:
    """What lies above and beside each positive, in rank order within a query: score descending, row ascending.

    Attributes:
        offsets: int64 [Q + 1]; the positives of query q are the entries offsets[q]:offsets[q + 1].
        rows: Gallery rows of the positives, int32 [P].
        scores: Their canonical scores, float64 [P].
        greater: Non-positives with a greater score, int32 [P].
        equal: Non-positives with an equal score, int32 [P].
        before: Those of `equal` with a lower gallery row, int32 [P].
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    scores: NDArray[np.float64]
    greater: NDArray[np.int32]
    equal: NDArray[np.int32]
    before: NDArray[np.int32]

    @property
    def n_positives(self) -> NDArray[np.int64]:
        """Positives of each query (R), [Q]."""
        return np.diff(self.offsets)

    @property
    def query(self) -> NDArray[np.int64]:
        """The query each positive belongs to, [P]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.n_positives)

    @property
    def hits(self) -> NDArray[np.int64]:
        """How many positives of its query rank at or above each one (h), 1-based, [P]."""
        return np.arange(len(self.rows)) - self.offsets[self.query] + 1

    def ranks(self, ties: TieOrder = "row") -> NDArray[np.int64]:
        """1-based ranks [P], ascending within a query.

        Args:
            ties: Where non-positives of equal score stand: in gallery row order, all behind the positives, or all
                before.
        """
        ranks = self.hits + self.greater.astype(np.int64)
        if ties == "best":
            return ranks
        return ranks + (self.before if ties == "row" else self.equal).astype(np.int64)

    def pieces(self, most: int) -> Iterator[tuple[int, RankCounts]]:
        """The queries in order, as (first query, counts) with about `most` positives each."""
        start = 0
        while start < len(self.offsets) - 1:
            stop = int(np.searchsorted(self.offsets, self.offsets[start] + most, side="right")) - 1
            stop = min(max(stop, start + 1), len(self.offsets) - 1)
            part = slice(int(self.offsets[start]), int(self.offsets[stop]))
            offsets = self.offsets[start : stop + 1] - self.offsets[start]
            yield (
                start,
                RankCounts(
                    offsets,
                    self.rows[part],
                    self.scores[part],
                    self.greater[part],
                    self.equal[part],
                    self.before[part],
                ),
            )
            start = stop

    def merge(self, other: RankCounts) -> RankCounts:
        """The counts over two disjoint parts of one gallery, for the same queries and positives.

        Raises:
            AlignmentError: The positives or their scores differ.
        """
        same = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("offsets", "rows", "scores"))
        if not same:
            raise AlignmentError("counts of different queries or positives cannot be added")
        return RankCounts(
            self.offsets,
            self.rows,
            self.scores,
            self.greater + other.greater,
            self.equal + other.equal,
            self.before + other.before,
        )
