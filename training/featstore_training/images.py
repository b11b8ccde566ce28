"""Training rows as pixels.

N rows, B batch, C channels, S height and width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from featstore.encoders import Augment, Preparation, Preprocess, ViewRecipe
from featstore.errors import BadInputError
from featstore.sources import NOWHERE, Place, Source, decode_image
from featstore_training.ahead import ahead
from featstore_training.views import drawn_views

__all__ = ["ImageRows"]

BLOCK_ROWS = 256
RESIDENT_BYTES = 2 * 2**30


class ImageRows:
    """Images of some rows, preprocessed, addressed by their position among these.

    Args:
        source: Where the images are.
        rows: Id and place of each [N].
        preprocess: How images become input.
        augment: What training changes; None for nothing.
        recipes: Views that an epoch draws from instead, besides the image as it is; the draws that cached columns pair with.
        seed: Of the draws.
        workers: Threads that prepare batches ahead of the computation; 0 for none.
        resident_bytes: Decoded images are kept in memory up to this size; others are decoded whenever they are needed.

    Raises:
        BadInputError: an image cannot be used, while reading.
    """

    block_rows = BLOCK_ROWS

    def __init__(
        self,
        source: Source,
        rows: Sequence[tuple[str, Place]],
        preprocess: Preprocess,
        augment: Augment | None,
        recipes: Sequence[ViewRecipe] = (),
        *,
        seed: int,
        workers: int,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self.workers = workers
        self._source = source
        self._rows = rows
        self._preprocess = preprocess
        self._augment = augment
        self._recipes = (None, *recipes)
        self._seed = seed
        self._room = resident_bytes
        self._decoded: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """The images as they are, float32 [B, C, S, S]."""
        return self._stack([self._preprocess.apply(self._image(row)) for row in positions.tolist()])

    def training(self, positions: NDArray[np.int64], epoch: int) -> Tensor:
        """The images as an epoch sees them, float32 [B, C, S, S]: one view of each, drawn by seed, id and epoch."""
        if len(self._recipes) > 1:
            drawn = drawn_views(self._seed, epoch, len(self._recipes) - 1, len(self))[positions]
            recipes = [self._recipes[number] for number in drawn.tolist()]
            return self._stack(
                [
                    Preparation(self._preprocess, recipe).apply(self._image(row), self._rows[row][0])
                    for row, recipe in zip(positions.tolist(), recipes, strict=True)
                ]
            )
        augment = self._augment
        if augment is None:
            return self.take(positions)
        return self._stack(
            [
                self._preprocess.apply(self._image(row), augment.draw(self._seed, self._rows[row][0], epoch))
                for row in positions.tolist()
            ]
        )

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All images as they are, in order: (positions, float32 [b, C, S, S])."""
        parts = [slice(start, min(start + BLOCK_ROWS, len(self))) for start in range(0, len(self), BLOCK_ROWS)]
        calls = (partial(self.take, np.arange(part.start, part.stop)) for part in parts)
        yield from zip(parts, ahead(calls, self.workers), strict=True)

    def _stack(self, images: list[NDArray[np.float32]]) -> Tensor:
        if images:
            return torch.from_numpy(np.stack(images))
        size = self._preprocess.size
        return torch.empty(0, self._preprocess.channels, size, size)

    def _read(self, id_: str, place: Place) -> bytes:
        if place is NOWHERE:
            return self._source.read(id_)
        with self._reading:  # rows of one file share its stream
            return self._source.read(id_, place)

    def _image(self, row: int) -> Image.Image:
        pixels = self._decoded.get(row)
        if pixels is not None:
            return Image.fromarray(pixels)
        id_, place = self._rows[row]
        try:
            image = decode_image(self._read(id_, place))
        except BadInputError as error:
            raise BadInputError(
                f"{id_} cannot be trained on: {error.message}", hint="leave it out: --where id!=@FILE"
            ) from error
        pixels = np.asarray(image)
        with self._lock:
            if row not in self._decoded and pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                self._decoded[row] = pixels
        return image
