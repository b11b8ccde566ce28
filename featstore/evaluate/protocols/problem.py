"""What every protocol hands to the evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featstore.evaluate.relevance import Relevance

__all__ = ["Problem", "SideCounts"]


class SideCounts(BaseModel):
    """What became of the rows on one side.

    Attributes:
        selected: Rows that pass the filters.
        without_feature: Of these, rows that some set involved has no feature for; left out.
        unlabelled: Of the rest, rows without a class; left out.
        used: What remains.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    selected: int
    without_feature: int
    unlabelled: int
    used: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Queries, a gallery and the ground truth between them; the same for every cell of an evaluation.

    Attributes:
        kind: `leave-one-out` (every row queries all others) or `query/gallery`.
        headline: The metric that the verdict is about; fixed by the protocol, not by the result.
        query_rows: Dataset rows of the queries, int64 [Q].
        gallery_rows: Dataset rows of the gallery, int64 [G].
        relevance: Which gallery rows (positions in `gallery_rows`) answer which query.
        self_rows: Position in `gallery_rows` of each query itself, int64 [Q], −1 where it is not there.
        classes: Class of each query, the unit of resampling, int64 [Q].
        class_names: Their names.
        query_counts: What became of the query rows.
        gallery_counts: What became of the gallery rows.
    """

    kind: str
    headline: str
    query_rows: NDArray[np.int64]
    gallery_rows: NDArray[np.int64]
    relevance: Relevance
    self_rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    class_names: tuple[str, ...]
    query_counts: SideCounts
    gallery_counts: SideCounts
