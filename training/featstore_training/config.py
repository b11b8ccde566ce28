"""What a training run is told, as one checked model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from featstore.encoders import Augment
from featstore.maps import LinearConfig, MapConfig
from featstore.strict import Strict
from featstore_training.bridges import BridgePolicy
from featstore_training.head_config import HeadConfig
from featstore_training.model_config import ModelConfig
from featstore_training.objectives import find_objective
from featstore_training.samplers import SamplerName

__all__ = ["TrainConfig"]

_KINDS = {"map": "linear", "head": "cosine"}  # of losses that say nothing about it


class TrainConfig(Strict):
    """Settings of `train`; together with the rows they are read from they fix the result.

    Attributes:
        loss: Name of an objective.
        new: Feature set of the new backbone, the map's input (head mode).
        images: Folder of images that a backbone is trained on instead (full mode).
        dataset: Dataset of these images, made from them when it is new; only needed without an old set.
        model: The backbone of full mode; the name of an architecture or a URI alone takes its defaults.
        augment: Random changes of training images; None for none. Head mode has none.
        workers: Threads that prepare images while a step computes; they never change the result.
        old: Feature set that new features shall be compatible with; `independent` can do without.
        side: Further cached features of the rows, for methods that use them.
        where: Filters on the training rows, validation rows included unless `val_where` names them.
        val_where: Filters that pick the validation rows; they never train. None given: a part of the training rows.
        val_fraction: That part.
        val_by: Whether it is taken from every class (`image`) or is whole classes (`class`).
        views: Cached views (`NAME.v1` … `NAME.vk`) that rows are seen in besides the row as it is; each epoch draws one of
            these for every row.
        old_views: With views: whether a step compares with the old feature of the same view (`paired`) or of the row as it
            is (`clean`); None takes what suits the method. In full mode `paired` cuts images as the old set's views.
        width: Output width; None takes the old width, without an old set the input width. A backbone has a width of its own.
        map: What the map of head mode is made of; the name of an architecture alone takes its defaults. Full mode knows
            `basis` only, which is put on the backbone.
        bridge: How new features of another width are compared with old ones: `truncate` (the first components), `pad` (zeros
            behind) or `project` (a learned matrix); None needs equal widths.
        head: The classifier; the name of a kind alone takes its defaults, None the objective's own.
        epochs: Passes over the training rows.
        batch: Rows of a step.
        sampler: `shuffle` takes every row once an epoch, `balanced` every class equally often, `pk` as many classes a
            batch as fit with `per_class` rows each.
        per_class: K of `pk`.
        optimizer: `adam`, or `sgd` with momentum 0.9.
        lr: Rate at its highest.
        weight_decay: L2 penalty added to the gradient.
        warmup: Epochs of linear warm-up.
        schedule: `cosine` falls to 0 over the run, `constant` stays.
        clip: Longest gradient over all parameters together; a longer one is scaled down to it. None for no bound.
        ema: Decay of a moving average of the weights, which is then what is validated and kept; None for none.
        amp: `bf16` or `fp16` computes the new features of a step in that type where torch's autocast does; head and loss stay
            in float32. With `fp16` the loss is scaled so that small gradients survive; a step whose gradients overflow is
            left out and the scale halved.
        seed: Draws initial weights (those of map and head from the new side's space and the rows as well, so that two
            generations of one seed begin apart), batches and the validation part.
        metric: What validation measures.
        reference_self: Self-test value that the selection score divides by; None takes the raw new features', in full mode
            the old set's.
        params: Settings of the objective.
        old_run: Run folder that made the old features, for methods that read the old classifier and for the lineage.
    """

    what: ClassVar[str] = "training settings"

    loss: str
    new: str | None = None
    images: str | None = None
    dataset: str | None = None
    model: ModelConfig | None = None
    augment: Augment | None = Field(default_factory=Augment)
    workers: int = Field(default=1, ge=0, le=64)
    old: str | None = None
    side: str | None = None
    where: tuple[str, ...] = ()
    val_where: tuple[str, ...] = ()
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    val_by: Literal["image", "class"] = "image"
    views: int = Field(default=0, ge=0, le=64)
    old_views: Literal["paired", "clean"] | None = None
    width: int | None = Field(default=None, gt=0)
    map: MapConfig = Field(default_factory=LinearConfig)
    bridge: BridgePolicy | None = None
    head: HeadConfig | None = None
    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=256, ge=2)
    sampler: SamplerName = "shuffle"
    per_class: int = Field(default=4, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=1.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float | None = Field(default=None, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    amp: Literal["bf16", "fp16"] | None = None
    seed: int = Field(default=0, ge=0)
    metric: str = "map"
    reference_self: float | None = Field(default=None, gt=0, le=1)
    params: dict[str, Any] = Field(default_factory=dict)
    old_run: Path | None = None

    @field_validator("where", "val_where", mode="before")
    @classmethod
    def _one_filter(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("map", "head", mode="before")
    @classmethod
    def _kind_of_the_loss(cls, value: object, info: ValidationInfo) -> object:
        """Options alone are those of the map or head that the loss trains."""
        if isinstance(value, dict) and "name" not in value and "loss" in info.data:
            own = find_objective(info.data["loss"]).defaults.get(str(info.field_name), {})
            return {"name": _KINDS[str(info.field_name)]} | dict(own) | value
        return value

    @field_validator("map", "head", "model", mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value
