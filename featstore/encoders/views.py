"""Cached views: the same random change of an image for every encoder, kept as feature sets of their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from featstore.encoders.augment import Augment, View
from featstore.encoders.preprocess import Preprocess
from featstore.spaces import Space

__all__ = ["Preparation", "ViewRecipe", "view_recipe"]

_FIELD = "view"


class ViewRecipe(BaseModel):
    """One view of every image: what the image's id, the seed and the view's number make of it.

    Nothing here depends on the encoder, so sets of different encoders made with the same recipe saw the same views.

    Attributes:
        number: Which view, from 1 on.
        seed: Of all views.
        augment: What may change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    augment: Augment = Field(default_factory=Augment)

    def draw(self, id_: str) -> View:
        """The view of one image."""
        return self.augment.draw(self.seed, id_, self.number)

    def space(self, clean: Space) -> Space:
        """The space of this view's features: the encoder's with the recipe in its identity, comparable with the encoder's.

        A set thus never mixes views of two recipes.
        """
        return Space(
            name=f"{clean.name}.v{self.number}",
            width=clean.width,
            identity={**clean.identity, _FIELD: self.model_dump(mode="json")},
            numerics=clean.numerics,
            compatible_with=(clean.digest, *clean.compatible_with),
        )


def view_recipe(space: Space) -> ViewRecipe | None:
    """The recipe in a space's identity; None for features of images as they are."""
    found = space.identity.get(_FIELD)
    return None if found is None else ViewRecipe.model_validate(found)


class Preparation(NamedTuple):
    """What makes an encoder's input of a decoded image; equal preparations give equal inputs.

    Attributes:
        preprocess: The encoder's preprocessing.
        recipe: The view; None for the image as it is.
    """

    preprocess: Preprocess
    recipe: ViewRecipe | None = None

    def apply(self, image: Image.Image, id_: str) -> NDArray[np.float32]:
        """float32 [C, size, size] of an image in mode `RGB` or `L`."""
        return self.preprocess.apply(image, self.recipe.draw(id_) if self.recipe else None)
