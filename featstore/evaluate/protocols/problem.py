"""What every protocol is given, and what it hands to the evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from featstore.evaluate.metrics import Measure
    from featstore.evaluate.relevance import Relevance
    from featstore.evaluate.scores import ScoreKind
    from featstore.evaluate.templates import Templates
    from featstore.store import FeatureSet

__all__ = ["Problem", "Selection", "SideCounts"]


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
class Selection:
    """What a protocol chooses its rows from.

    Attributes:
        query_sets: The sets that queries come from, all of one dataset.
        gallery_sets: The sets that gallery rows come from, all of one dataset.
        where: Filters for both sides.
        query_where: Further filters for queries.
        gallery_where: Further filters for the gallery.
        ground_truth: A file that says what answers what, for protocols that need one.
        newest: The newest of the models that are compared; None for a single set or pair.
        score: What ranks.
    """

    query_sets: Sequence[FeatureSet]
    gallery_sets: Sequence[FeatureSet]
    where: Sequence[str] = ()
    query_where: Sequence[str] = ()
    gallery_where: Sequence[str] = ()
    ground_truth: Path | None = None
    newest: FeatureSet | None = None
    score: ScoreKind = "cosine"


@dataclass(frozen=True, slots=True)
class Problem:
    """Queries, a gallery and the ground truth between them; the same for every cell of an evaluation.

    Attributes:
        kind: What the protocol is called; `leave-one-out` (every row queries all others) and `query/gallery` are the
            two forms of the default.
        headline: The metric that the verdict is about; fixed by the protocol, not by the result.
        query_rows: Dataset rows of the queries, int64 [Q]; the first row of each template where rows are pooled.
        gallery_rows: Dataset rows of the gallery, int64 [G].
        relevance: Which gallery rows (positions in `gallery_rows`) answer which query.
        self_rows: Position in `gallery_rows` of each query itself, int64 [Q], −1 where it is not there.
        classes: Class of each query, the unit of resampling, int64 [Q + absent].
        class_names: Their names.
        query_counts: What became of the query rows.
        gallery_counts: What became of the gallery rows.
        metrics: What the protocol reports when nothing else is asked for.
        measure: Whether rankings, pairs (1:1) or searches with rejection (1:N) are measured.
        missing: Right answers of each query that the gallery lacks; they count as never found. int64 [Q]; None for none.
        unanswered_are_zero: Queries without a right answer count as 0 instead of being left out.
        absent: Queries of the ground truth that have no feature; they count as 0, after the others.
        query_templates: How rows are pooled to queries; None when each query is a row.
        gallery_templates: How rows are pooled to gallery entries.
        is_proxy: What counts as right only stands in for right answers, so no verdict follows.
        notes: What a reader of the numbers has to know.
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
    metrics: tuple[str, ...] = ("map", "map@r", "recall@1", "recall@5", "recall@10")
    measure: Measure = "ranking"
    missing: NDArray[np.int64] | None = None
    unanswered_are_zero: bool = False
    absent: int = 0
    query_templates: Templates | None = None
    gallery_templates: Templates | None = None
    is_proxy: bool = False
    notes: tuple[str, ...] = ()
