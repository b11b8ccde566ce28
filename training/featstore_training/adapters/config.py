"""What fitting an adapter is told, as one checked model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from featstore.strict import Strict

__all__ = ["AdapterConfig", "Direction"]

Direction = Literal["new-to-old", "old-to-new"]


class AdapterConfig(Strict):
    """Settings of `fit_adapter`; together with the rows they are read from they fix the result.

    Attributes:
        loss: Name of an adapter.
        old: Feature set of the old model.
        new: Feature set of the new model, over the same dataset.
        new_run: Run folder that made the new set, for methods that read the new model's classifier.
        side: Further feature sets of the same rows, for methods that read side-information; concatenated.
        views: Cached views (`NAME.v1` … `NAME.vk`) that a trained adapter sees rows in besides the row as it is, the same
            one in all sets.
        direction: `new-to-old` maps queries and leaves the gallery, `old-to-new` maps the gallery; None takes the method's.
        where: Filters on the rows to fit on, validation rows included unless `val_where` names them.
        val_where: Filters that pick the validation rows; they are never fitted on. None given: a part of the rows.
        val_fraction: That part.
        val_by: Whether it is taken from every class (`image`) or is whole classes (`class`).
        pairs: Fit on a random sample of so many rows; None takes all.
        select_by: What held-out retrieval calls right: rows of the same class (`labels`) or the row itself as the other
            model sees it (`pairs`). None: labels where validation rows have any, else pairs.
        metric: What validation measures by labels; by pairs it is the mean reciprocal rank.
        seed: Draws the sample, the validation part and whatever the method draws.
        params: Settings of the method.
    """

    what: ClassVar[str] = "adapter settings"

    loss: str
    old: str
    new: str
    new_run: Path | None = None
    side: tuple[str, ...] = ()
    views: int = Field(default=0, ge=0, le=64)
    direction: Direction | None = None
    where: tuple[str, ...] = ()
    val_where: tuple[str, ...] = ()
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    val_by: Literal["image", "class"] = "image"
    pairs: int | None = Field(default=None, ge=2)
    select_by: Literal["labels", "pairs"] | None = None
    metric: str = "map"
    seed: int = Field(default=0, ge=0)
    params: dict[str, Any] = Field(default_factory=dict)

    @field_validator("side", "where", "val_where", mode="before")
    @classmethod
    def _one_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value
