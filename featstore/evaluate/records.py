"""The parts of a result, as JSON holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from featstore.evaluate.protocols.problem import SideCounts

if TYPE_CHECKING:
    from featstore.evaluate.statistics import Estimate

__all__ = [
    "Backfill",
    "Cell",
    "Chain",
    "Changes",
    "ClassChange",
    "Distribution",
    "Estimated",
    "Flips",
    "OperatingPoint",
    "ProtocolRecord",
    "Record",
    "RunRecord",
    "ThresholdTransfer",
    "Ties",
]


class Record(BaseModel):
    """Whatever is part of a result: frozen, and without keys that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ties(Record):
    """What equal scores leave open. Metrics rank tied rows in gallery row order.

    Attributes:
        queries: Queries in which a right answer ties with a wrong one.
        bracket: The least and the greatest value that an order of ties can give, by metric; without the metrics that a
            hit at a better rank can lower.
        expected_map: Mean average precision expected under a random order.
    """

    queries: int
    bracket: dict[str, tuple[float, float]]
    expected_map: float


class Cell(Record):
    """One cell of the evaluation.

    Attributes:
        query: The set the queries come from, with its version.
        gallery: The set the gallery comes from, with its version.
        query_map: Run folder of the map that the queries went through; None for none.
        gallery_map: Run folder of the map that the gallery went through; None for none.
        role: What the cell is in an upgrade: `old/old`, `new/old`, `mapped-new/old`, `new/mapped-old`, `new/new`, or `v1/v1`,
            `v2/v1`, … of a chain; `reference`; `query/gallery`.
        width: Components compared.
        unrelated: Nothing declares the two spaces comparable, and the caller wanted the cell all the same.
        n_queries: Queries that count.
        n_skipped: Queries without a right answer in the gallery.
        metrics: Means over the queries that count, fractions in [0, 1].
        interval: 95 % percentile intervals of the bootstrap; empty without one.
        ties: None when no right answer ties with a wrong one.
        thresholds: The least score that is accepted, by metric; empty for metrics of rankings.
        warnings: What a reader of these numbers has to know.
    """

    query: str
    gallery: str
    query_map: str | None = None
    gallery_map: str | None = None
    role: str
    width: int
    unrelated: bool
    n_queries: int
    n_skipped: int
    metrics: dict[str, float]
    interval: dict[str, tuple[float, float]]
    ties: Ties | None
    thresholds: dict[str, float] = {}
    warnings: tuple[str, ...] = ()


class Estimated(Record):
    """A number with its 95 % percentile interval (None without a bootstrap)."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, estimate: Estimate) -> Estimated:
        """The same numbers as a record."""
        return cls(value=estimate.value, low=estimate.low, high=estimate.high)


class Chain(Record):
    """What a whole chain of generations is like, by metric; see `chain.py` for the formulas.

    Attributes:
        matrix: Lower triangle: row i holds queries of generation i against galleries 1 … i.
        ac: Average compatibility: the share of cross-tests above their gallery's own model; a tie fails.
        ac_nonstrict: The same when a tie passes.
        bc: Backward compatibility of the newest queries.
        fc: Forward compatibility.
        am: The mean of the lower triangle.
    """

    matrix: dict[str, list[list[float]]]
    ac: dict[str, Estimated]
    ac_nonstrict: dict[str, Estimated]
    bc: dict[str, Estimated]
    fc: dict[str, Estimated]
    am: dict[str, Estimated]


class Flips(Record):
    """Queries that change between two cells in whether a right answer is among the first k.

    Attributes:
        before: The cell they are compared with.
        nfr: Negative flip rate: right before, wrong now.
        pfr: Positive flip rate: wrong before, right now.
        churn: Both together.
        relative_nfr: NFR relative to what independent errors would give, NFR / ((1 − ER_before)·ER_after).
    """

    before: str
    nfr: Estimated
    pfr: Estimated
    churn: Estimated
    relative_nfr: Estimated


class ClassChange(Record):
    """A class, its queries, and their mean before and after."""

    name: str
    queries: int
    before: float
    after: float


class Changes(Record):
    """How the change from the subject's baseline to the subject is spread, in the headline metric.

    Attributes:
        better: Queries with a higher value.
        worse: Queries with a lower one.
        equal: Queries with the same.
        quantiles: Of the change of a query, by level: `5%`, `25%`, `50%`, `75%`, `95%`.
        classes: Every class that has queries, in order of its name.
    """

    better: int
    worse: int
    equal: int
    quantiles: dict[str, float]
    classes: list[ClassChange]


class Backfill(Record):
    """A metric at every stage of a backfill; see `backfill.py`.

    Attributes:
        order: In which order gallery rows get their new features.
        serving: `one index` that holds rows of both models, or `two indexes` whose answers are merged by distance.
        start: The cell at fraction 0.
        end: The cell at fraction 1.
        fractions: Shares of backfilled rows, from 0 to 1.
        metrics: One value for each fraction, by metric; the first and the last are those of the cells.
        nfr: Negative flip rate against the gallery's own model at each fraction, by recall metric.
        area_trapezoid: Area under the curve by the trapezoid rule, by metric.
        area_mean: The plain mean of the points, the convention of FastFill's code.
        falls: On how many steps the metric falls.
    """

    order: str
    serving: Literal["one index", "two indexes"] = "one index"
    start: str
    end: str
    fractions: list[float]
    metrics: dict[str, list[Estimated]]
    nfr: dict[str, list[Estimated]]
    area_trapezoid: dict[str, Estimated]
    area_mean: dict[str, Estimated]
    falls: dict[str, int]

    @property
    def label(self) -> str:
        """What the curve is called."""
        return self.order if self.serving == "one index" else f"{self.order}, {self.serving}"


class OperatingPoint(Record):
    """What a threshold on the score does: a pair is accepted when its score is at least the threshold.

    Attributes:
        threshold: The score.
        fpr: Share of the negative pairs that are accepted.
        tpr: Share of the positive pairs that are accepted.
    """

    threshold: float
    fpr: float
    tpr: float


class ThresholdTransfer(Record):
    """One operating point, kept through an upgrade.

    Attributes:
        asked: What was asked for: `fpr 0.001` or `threshold 0.62`.
        before: The cell where the old threshold applies.
        kept: In every cell, the smallest threshold whose false-positive rate is no greater than that of `before`.
        unchanged: What the old threshold would do in the other cells.
        resolved: False where the rate is below one negative pair, so that any threshold above all of them meets it.
    """

    asked: str
    before: str
    kept: dict[str, OperatingPoint]
    unchanged: dict[str, OperatingPoint]
    resolved: bool


class Distribution(Record):
    """Scores of all pairs of a cell, in bins of equal width.

    Attributes:
        low: Lower edge of the first bin.
        high: Upper edge of the last one.
        positives: Pairs with a right answer in each bin.
        negatives: All other pairs in each bin.
    """

    low: float
    high: float
    positives: list[int]
    negatives: list[int]


class RunRecord(Record):
    """One of several runs (seeds) that were evaluated together.

    Attributes:
        sets: The query set and the gallery set of each role, with versions.
        metrics: Means of each role.
    """

    sets: dict[str, tuple[str, str]]
    metrics: dict[str, dict[str, float]]


class ProtocolRecord(Record):
    """How the numbers came about.

    Attributes:
        kind: `leave-one-out` or `query/gallery`.
        score: What ranks.
        normalisation: What is done to features when they are read.
        ties: The order of equal scores.
        skipped: What happens to queries without a right answer.
        distractors: The dataset that was appended to the gallery.
        widths: What was done with sets of different widths.
        is_proxy: What counts as right only stands in for right answers, so there is no verdict.
        notes: What a reader of the numbers has to know.
        conventions: The formula of each metric.
        query_where: Filters of the queries.
        gallery_where: Filters of the gallery.
        queries: What became of the query rows.
        gallery: What became of the gallery rows.
        in_gallery: Queries that are in the gallery themselves and are left out of their own ranking.
        classes: Classes among the queries that count: the units of resampling.
        bootstrap: Resamples.
        seed: Of the resampling.
    """

    kind: str
    score: str
    normalisation: str
    ties: str = "score descending, then gallery row ascending"
    skipped: str
    distractors: str | None = None
    widths: str = "refuse"
    is_proxy: bool = False
    notes: tuple[str, ...] = ()
    conventions: dict[str, str]
    query_where: tuple[str, ...]
    gallery_where: tuple[str, ...]
    queries: SideCounts
    gallery: SideCounts
    in_gallery: int
    classes: int
    bootstrap: int
    seed: int
