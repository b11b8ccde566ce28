"""Which classifier stands on top of the features while training, as data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from featstore.strict import Strict

__all__ = ["ArcFaceConfig", "CosFaceConfig", "CosineConfig", "HeadConfig", "SimplexConfig", "SoftmaxConfig"]


class _Head(Strict):
    what: ClassVar[str] = "settings of the head"


class _Learned(_Head):
    """A head whose class weights are learned.

    Attributes:
        sample: Share of the classes absent from a batch that a step counts as negatives, drawn anew every step; 1 takes all.
    """

    sample: float = Field(default=1.0, gt=0, le=1)


class SoftmaxConfig(_Learned):
    """Logits W·f + b."""

    name: Literal["softmax"] = "softmax"


class CosineConfig(_Learned):
    """Logits γ·cos.

    Attributes:
        scale: γ, the inverse temperature.
    """

    name: Literal["cosine"] = "cosine"
    scale: float = Field(default=12.0, gt=0)


class ArcFaceConfig(_Learned):
    """γ·cos(θ + m) for the own class (Deng et al., CVPR 2019).

    Attributes:
        scale: γ.
        margin: m, radians.
    """

    name: Literal["arcface"] = "arcface"
    scale: float = Field(default=30.0, gt=0)
    margin: float = Field(default=0.3, ge=0, lt=1.5)


class CosFaceConfig(_Learned):
    """γ·(cos θ − m) for the own class (Wang et al., CVPR 2018).

    Attributes:
        scale: γ.
        margin: m.
    """

    name: Literal["cosface"] = "cosface"
    scale: float = Field(default=30.0, gt=0)
    margin: float = Field(default=0.35, ge=0, lt=2)


class SimplexConfig(_Head):
    """γ·cos with the fixed vertices of a regular simplex, one for each class that may ever come (Biondi et al., 2021).

    Attributes:
        capacity: Vertices; the features have one component less.
        scale: γ.
    """

    name: Literal["simplex"] = "simplex"
    capacity: int = Field(default=1024, ge=3)
    scale: float = Field(default=30.0, gt=0)


HeadConfig = Annotated[
    SoftmaxConfig | CosineConfig | ArcFaceConfig | CosFaceConfig | SimplexConfig, Field(discriminator="name")
]
