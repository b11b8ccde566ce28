"""What extraction is asked for, and what it reports."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from featstore.encoders.augment import Augment
from featstore.encoders.numerics import Numerics
from featstore.extract.stages import Stage, StageReport
from featstore.ranks import ALONE, Rank
from featstore.ray_pool import Engine
from featstore.store.policies import ZeroRows
from featstore.strict import Strict

__all__ = ["ExtractReport", "ExtractRequest", "SetReport"]


class ExtractRequest(Strict):
    """One extraction: the images of a source through one or several encoders.

    Attributes:
        source: Where the images are, as `featstore.sources.spec` describes it.
        dataset: Name of the dataset in the store; made when it is new, extended by images it does not have yet.
        models: Model URI by name of the feature set.
        workers: Worker processes, each with one thread; None takes one for each core, fewer where the work would not
            pay for starting them. 1 works in this process.
        batch: Images an encoder sees at once.
        dtype: Stored type; None takes each encoder's own.
        zero_rows: Whether an image whose feature is zero throughout, as stored, fails (`error`) or is kept (`keep`).
        numerics: How networks are computed.
        fast: Compute them as fast as leaves every sampled feature at a cosine of 0.9999 to float32; overrides `numerics`.
        max_failures: Stop when more than this fraction of the images tried has failed.
        views: So many augmented views of every image are encoded besides the image as it is, each into a set of its own.
        view_seed: What they are drawn from, together with the images' ids.
        augment: What may change in a view.
        engine: Who works: processes of this machine, or actors of a Ray cluster (`RAY_ADDRESS`, else on this machine).
        gpus_per_worker: Of each Ray actor; a fraction lets several share one.
        rank: Which of several independent processes this is; each takes every n-th shard, and the last one commits.
        canary: So many of the images, at most, are kept in the store with each set, for `doctor` to encode them again.
    """

    what: ClassVar[str] = "extraction settings"

    source: str
    dataset: str
    models: dict[str, str] = Field(min_length=1)
    workers: int | None = Field(default=None, ge=1)
    batch: int = Field(default=32, ge=1)
    dtype: Literal["float16", "float32", "float64"] | None = None
    zero_rows: ZeroRows = "error"
    numerics: Numerics = Numerics()
    fast: bool = False
    max_failures: float = Field(default=0.05, ge=0, le=1)
    views: int = Field(default=0, ge=0, le=64)
    view_seed: int = Field(default=0, ge=0)
    augment: Augment = Field(default_factory=Augment)
    engine: Engine = "local"
    gpus_per_worker: float = Field(default=0.0, ge=0)
    rank: Rank = ALONE
    canary: int = Field(default=16, ge=0, le=256)


class SetReport(BaseModel):
    """One feature set after an extraction.

    Attributes:
        ref: `DATASET/NAME@version`; without the version while it has none.
        rows: Rows it covers.
        failed: Rows among them without a feature.
        encoded: Rows this run computed (valid and failed).
        copied: Rows this run copied from sets of the same space, by the name of the set.
        cached: Rows that were there before.
        left: Rows that other ranks have not finished yet; until then none of the new ones is covered.
    """

    ref: str
    rows: int
    failed: int
    encoded: int
    copied: dict[str, int]
    cached: int
    left: int


class ExtractReport(BaseModel):
    """What an extraction did.

    Attributes:
        dataset: `DATASET@version`.
        images: Rows of the dataset.
        encoded: Images this run decoded and encoded, each counted once, whatever the number of models.
        copied: Images this run did not need to decode: the store had the features of the same bytes for every model.
        cached: Images whose features were all there before.
        failed: Images that lack a feature in at least one set, from this run or an earlier one.
        left: Images that other ranks have not finished yet.
        skipped: Entries of the source that are not read (links that lead out, unreadable folders).
        changed: Images whose file changed since the dataset was committed; their features are those of the old content.
        vanished: Rows of the dataset that are not in the source any more.
        seconds: Wall time of the whole run.
        images_per_second: `encoded` by the time spent encoding, 0 when nothing was.
        stages: Where the time went; empty when nothing was done.
        limit: The stage that took longest.
        bytes_read: Of images.
        bytes_written: Of features.
        sets: One entry a feature set, by name.
    """

    dataset: str
    images: int
    encoded: int
    copied: int
    cached: int
    failed: int
    left: int
    skipped: int
    changed: int
    vanished: int
    seconds: float
    images_per_second: float
    stages: list[StageReport]
    limit: Stage | None
    bytes_read: int
    bytes_written: int
    sets: dict[str, SetReport]
