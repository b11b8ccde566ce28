"""From ids to arrays: each image is read and decoded once, then preprocessed once for each distinct preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featstore.encoders import Preprocess
from featstore.errors import BadInputError
from featstore.sources import Source, content_digest, decode_image

__all__ = ["Failure", "Prepared", "prepare"]

_DIGEST_BYTES = 16


class Failure(NamedTuple):
    """Why an image has no feature: stage `read`, `decode`, `preprocess` or `encode`, and the error."""

    stage: str
    error: str


@dataclass
class Prepared:
    """Some images, ready for every encoder.

    Attributes:
        digests: 128-bit blake3 of each file, uint8 [n, 16]; zero where it could not be read.
        failures: By position, images that no encoder can have.
        preprocess_failures: By preprocessing and position, images that this one cannot take.
        results: By preprocessing and position, float32 [C, H, W].
    """

    digests: NDArray[np.uint8]
    failures: dict[int, Failure] = field(default_factory=dict)
    preprocess_failures: dict[Preprocess, dict[int, Failure]] = field(default_factory=dict)
    results: dict[Preprocess, dict[int, NDArray[np.float32]]] = field(default_factory=dict)

    def arrays(self, preprocess: Preprocess) -> tuple[list[int], NDArray[np.float32]]:
        """Positions of the usable images, and their arrays as float32 [len(positions), C, H, W]."""
        found = self.results[preprocess]
        if not found:
            shape = (0, preprocess.channels, preprocess.size, preprocess.size)
            return [], np.empty(shape, dtype=np.float32)
        return list(found), np.stack(list(found.values()))

    def failed(self, preprocess: Preprocess) -> dict[int, Failure]:
        """By position, images that an encoder with this preprocessing cannot have."""
        return {**self.failures, **self.preprocess_failures[preprocess]}


def prepare(source: Source, ids: Sequence[str], preprocesses: Sequence[Preprocess]) -> Prepared:
    """Read, digest, decode and preprocess some images; whatever is wrong with one stays with that one."""
    prepared = Prepared(np.zeros((len(ids), _DIGEST_BYTES), dtype=np.uint8))
    for preprocess in preprocesses:
        prepared.results[preprocess] = {}
        prepared.preprocess_failures[preprocess] = {}
    for position, id_ in enumerate(ids):
        image = _read(source, id_, position, prepared)
        if image is None:
            continue
        for preprocess in preprocesses:
            try:
                prepared.results[preprocess][position] = preprocess.apply(image)
            except (ValueError, OSError, MemoryError) as error:
                failure = Failure("preprocess", f"{type(error).__name__}: {error}")
                prepared.preprocess_failures[preprocess][position] = failure
    return prepared


def _read(source: Source, id_: str, position: int, prepared: Prepared) -> Image.Image | None:
    try:
        data = source.read(id_)
    except BadInputError as error:
        prepared.failures[position] = Failure("read", error.message)
        return None
    prepared.digests[position] = content_digest(data)
    try:
        return decode_image(data)
    except BadInputError as error:
        prepared.failures[position] = Failure("decode", error.message)
        return None
