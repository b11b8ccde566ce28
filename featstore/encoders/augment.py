"""Augmentation as data: which random changes an image may undergo, and one draw of them."""

from __future__ import annotations

import hashlib
import math
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from featstore.strict import Strict

__all__ = ["Augment", "View"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow has it


class View(NamedTuple):
    """One draw, in units that do not depend on the image, so that every encoder sees the same part of it.

    Attributes:
        box: Left, top, right and bottom of the part that is kept, as shares of width and height.
        flip: Whether left and right change places.
        angle: Turn around the centre before the cut, degrees counter-clockwise.
        brightness: Factor of all values.
        contrast: Factor of the distances from the mean value.
        colour: Factors of red, green and blue; a grey image keeps its values.
        grey: Whether colours are taken out.
    """

    box: tuple[float, float, float, float]
    flip: bool
    angle: float
    brightness: float
    contrast: float
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grey: bool = False

    def turned(self, image: Image.Image) -> Image.Image:
        """The image turned and flipped; corners that come into sight get the mean colour of its border."""
        if self.angle:
            image = image.rotate(self.angle, Image.Resampling.BICUBIC, fillcolor=_border(image))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else image

    def relit(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values 0 … 255 [H, W, C] with colours, contrast, then brightness changed, clipped to that range."""
        coloured = pixels.shape[-1] == 3
        changed = pixels
        if coloured and self.colour != (1.0, 1.0, 1.0):
            changed = changed * np.asarray(self.colour, np.float32)
        if coloured and self.grey:
            changed = np.broadcast_to((changed @ _LUMA)[..., None], changed.shape)
        if self.contrast != 1 or self.brightness != 1:
            mean = changed.mean()
            changed = ((changed - mean) * self.contrast + mean) * self.brightness
        if changed is pixels:
            return pixels
        changed = np.array(changed, np.float32)
        np.clip(changed, 0, 255, out=changed)
        return changed


class Augment(Strict):
    """Ranges that views are drawn from, all uniformly; a range of no extent switches a change off.

    Attributes:
        area: Least and greatest share of the image's area that is kept.
        aspect: The cut may be up to so many times wider or higher than the image (log-uniform).
        flip: Whether half of the views are flipped left to right.
        angle: Turns up to so many degrees either way.
        brightness: Factors 1 ± so much.
        contrast: Factors 1 ± so much.
        colour: Factors 1 ± so much of red, green and blue, each drawn for itself.
        grey: Share of the views that lose their colours.

    Example:
        >>> Augment(angle=10).draw(seed=0, id_="cat/1.jpg", view=3) == Augment(angle=10).draw(0, "cat/1.jpg", 3)
        True
    """

    what: ClassVar[str] = "the augmentation"

    area: tuple[float, float] = (0.5, 1.0)
    aspect: float = Field(default=4 / 3, ge=1, le=10)
    flip: bool = True
    angle: float = Field(default=0.0, ge=0, le=180)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    colour: float = Field(default=0.0, ge=0, lt=1)
    grey: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        least, greatest = self.area
        if not 0 < least <= greatest <= 1:
            raise ValueError("area must be two shares, 0 < least <= greatest <= 1")
        return self

    def draw(self, seed: int, id_: str, view: int) -> View:
        """The view of one image, the same whenever it is asked for.

        Args:
            seed: Of the run.
            id_: Of the image.
            view: Which of its views.
        """
        digest = hashlib.blake2b(f"{seed} {view} {id_}".encode(errors="surrogatepass"), digest_size=8).digest()
        # always all of them, so that switching one change off leaves the others as they were
        draw = np.random.default_rng(int.from_bytes(digest, "big")).random(12).tolist()
        area = self.area[0] + (self.area[1] - self.area[0]) * draw[0]
        stretch = math.exp((2 * draw[1] - 1) * math.log(self.aspect) / 2)
        wide, high = min(1.0, math.sqrt(area) * stretch), min(1.0, math.sqrt(area) / stretch)
        factors = [1 + self.colour * (2 * number - 1) for number in draw[8:11]]
        left, top = (1 - wide) * draw[2], (1 - high) * draw[3]
        return View(
            box=(left, top, left + wide, top + high),
            flip=self.flip and draw[4] < 0.5,
            angle=self.angle * (2 * draw[5] - 1),
            brightness=1 + self.brightness * (2 * draw[6] - 1),
            contrast=1 + self.contrast * (2 * draw[7] - 1),
            colour=(factors[0], factors[1], factors[2]),
            grey=draw[11] < self.grey,
        )


def _border(image: Image.Image) -> int | tuple[int, ...]:
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    mean = edge.mean(axis=0).round().astype(int)
    return int(mean) if mean.ndim == 0 else tuple(mean.tolist())
