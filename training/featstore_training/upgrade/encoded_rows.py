"""New features of chosen rows from their images.

N rows, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.encoders import load_encoder
from featstore.extract import Output, encode_rows
from featstore.sources import open_source
from featstore.spaces import Space
from featstore.store import Dataset, FeatureSet

__all__ = ["EncodedRows"]


class EncodedRows:
    """New features from images, except for rows that an earlier version of the gallery holds in the same space.

    Args:
        dataset: The rows.
        images: Where the images are, as `featstore extract` takes it.
        model: Model URI.
        earlier: The gallery's version before, if there is one.
    """

    sure = False

    def __init__(self, dataset: Dataset, images: str, model: str, earlier: FeatureSet | None) -> None:
        self._dataset = dataset
        self._images = open_source(images)
        self._output = Output(load_encoder(model), None)
        self.name = model
        self.space = self._output.space
        self.source = f"encoded {self.space.digest}"
        self.dtype = np.dtype(self._output.encoder.dtype)
        self.encoded = 0
        self._earlier = earlier
        self._done = _rows_in(earlier, self.space) if earlier is not None else np.zeros(0, np.int64)
        self._known = earlier.input_digests() if earlier is not None else np.zeros((0, 16), np.uint8)

    def has(self, rows: int) -> NDArray[np.bool_]:
        """Every row is an image, as far as anybody knows before it is read."""
        return np.ones(rows, bool)

    def take(self, rows: NDArray[np.int64], out: NDArray[Any], digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Features that are there already, and those of images that can be read."""
        there = np.isin(rows, self._done)
        if self._earlier is not None and there.any():
            out[there] = self._earlier.gather(rows[there])
            digests[there] = self._known[rows[there]]
        todo = np.flatnonzero(~there)
        made, seen = np.empty((len(todo), out.shape[1]), out.dtype), np.zeros((len(todo), 16), np.uint8)
        found = encode_rows(self._output, self._images, self._dataset, rows[todo], seen, made)
        self.encoded += int(found.sum())
        out[todo[found]], digests[todo[found]] = made[found], seen[found]
        there[todo] = found
        return there


def _rows_in(gallery: FeatureSet, space: Space) -> NDArray[np.int64]:
    """Valid rows of a gallery that lie in a space."""
    valid = gallery.valid_rows()
    part = gallery.part_of_rows()[valid]
    matching = [place for place, found in enumerate(gallery.parts) if found.digest == space.digest]
    return valid[np.isin(part, matching)]
