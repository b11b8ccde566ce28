"""Encoding chosen images: again for a repair, from the images and the encoder that made them, or anew for a backfill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.encoders import view_recipe
from featstore.extract.inputs import prepare, read_inputs
from featstore.extract.isolate import encode_isolated
from featstore.extract.listing import Places
from featstore.extract.outputs import Output, Target, load_outputs
from featstore.extract.process import single_thread
from featstore.sources import Source, open_source
from featstore.spaces import require_same
from featstore.store.dataset import Dataset
from featstore.store.names import clean_name
from featstore.store.salvage import Wanted

__all__ = ["EncodeAgain", "encode_rows"]

_BATCH = 32


class EncodeAgain:
    """A place for rows, as `featstore.store.repair` asks for: images that are encoded again.

    Args:
        images: Where the images are, as `featstore extract` takes it.
        models: Model URI by name of the feature set; views are made by the model of the set they are views of.
    """

    name = "encoded again"

    def __init__(self, images: str, models: Mapping[str, str]) -> None:
        self._source = open_source(images)
        self._models = dict(models)
        self._outputs: dict[str, Output] = {}

    def fetch(self, wanted: Wanted, out: NDArray[Any]) -> NDArray[np.bool_]:
        """Features of images whose bytes are still those that were encoded (or whose digest was lost).

        Raises:
            SpaceMismatchError: the encoder is not the one that made the set.
        """
        name = wanted.features.record.name
        uri = self._models.get(name, self._models.get(clean_name(name)))
        if uri is None:
            return np.zeros(len(wanted.rows), dtype=bool)
        if name not in self._outputs:
            target = Target(uri, view_recipe(wanted.features.space))
            self._outputs |= load_outputs({name: target})
            require_same(
                wanted.features.space,
                self._outputs[name].space,
                what=f"{uri} did not make {wanted.features.ref}",
                hint="give the encoder that made this set with --model",
            )
        return encode_rows(self._outputs[name], self._source, wanted.features.dataset, wanted.rows, wanted.digests, out)


def encode_rows(
    output: Output,
    source: Source,
    dataset: Dataset,
    rows: NDArray[np.int64],
    digests: NDArray[np.uint8],
    out: NDArray[Any],
) -> NDArray[np.bool_]:
    """Encode the images of some rows.

    Args:
        output: The encoder and how images are prepared for it.
        source: Where the images are.
        dataset: What the rows are rows of.
        rows: Which rows, [n].
        digests: 128-bit blake3 of the bytes that each must have, uint8 [n, 16]; zero for any, which is then filled in.
        out: Where to put the features, [n, D].

    Returns:
        Which could be read and encoded, bool [n]; the rows of the others are left as they are.
    """
    found = np.zeros(len(rows), dtype=bool)
    places = Places(dataset)
    with single_thread():
        for first in range(0, len(rows), _BATCH):
            chosen = places.take(rows[first : first + _BATCH])
            inputs = read_inputs(source, chosen)
            recorded = digests[first : first + len(chosen)]
            same = (inputs.digests == recorded).all(axis=1) | ~recorded.any(axis=1)
            usable = {k for k in np.flatnonzero(same).tolist() if k not in inputs.failures}
            prepared = prepare(inputs, {output.preparation: usable})
            positions, arrays = prepared.arrays(output.preparation, usable)
            done, features, _ = encode_isolated(output.encoder, positions, arrays, output.room)
            at = first + np.asarray(done, dtype=np.int64)
            out[at] = features
            digests[at] = inputs.digests[done]
            found[at] = True
    return found
