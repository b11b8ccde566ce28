"""A faiss index with the setting that it was tuned to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore.search.exact import SPARE, rescored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featstore.evaluate import Neighbours
    from featstore.search.exact import Rows

__all__ = ["TunedIndex"]


@dataclass(frozen=True, slots=True)
class TunedIndex:
    """An index of unit rows under inner product.

    Attributes:
        index: What faiss built.
        factory: What faiss calls it.
        candidates: How many rows its codes propose for each one that is wanted.
    """

    index: Any
    factory: str
    candidates: int

    def nearest(self, query: NDArray[np.float32], gallery: Rows, k: int) -> Neighbours:
        """The k best of the rows that the index proposes, by their exact scores.

        Args:
            query: Unit rows [Q, D], float32, C order.
            gallery: The rows in the index, in its order.
            k: How many.
        """
        wanted = k + SPARE
        if self.factory.endswith("RFlat"):  # decides between candidates by the full rows that it holds
            self.index.k_factor = float(self.candidates)
        elif self.factory != "Flat":
            wanted *= self.candidates
        _, proposed = self.index.search(query, min(wanted, gallery.rows))
        return rescored(query, gallery, proposed, k)
