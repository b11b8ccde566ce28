"""Which network full mode trains, as data: an encoder to start from, or an architecture with fresh weights."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from featstore.encoders import Preprocess
from featstore.strict import Strict

__all__ = ["ModelConfig"]


class ModelConfig(Strict):
    """The backbone of full mode.

    Attributes:
        name: A registered architecture, or a model URI (`run:FOLDER`, `python:pkg.module:factory`) whose weights,
            preprocessing and normalisation are the start; a folder that is called like an architecture needs `run:`.
        config: Config of the architecture.
        preprocess: How images become its input; an architecture needs one.
        normalise: Whether features are scaled to length 1, in training and in the encoder that comes out.
    """

    what: ClassVar[str] = "settings of the model"

    name: str
    config: dict[str, Any] = Field(default_factory=dict)
    preprocess: Preprocess | None = None
    normalise: bool = False
