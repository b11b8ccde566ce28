"""From ids to arrays: each image is read and decoded once, then preprocessed once for each distinct preprocessing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.encoders import Preparation
from featstore.errors import BadInputError
from featstore.extract.stages import Stages
from featstore.sources import Place, Source, content_digest, decode_image

__all__ = ["Failure", "Inputs", "Prepared", "prepare", "read_inputs"]

_DIGEST_BYTES = 16


class Failure(NamedTuple):
    """Why an image has no feature: stage `read`, `decode`, `preprocess` or `encode`, and the error."""

    stage: str
    error: str


@dataclass
class Inputs:
    """Some files, read but not decoded.

    Attributes:
        ids: Of each.
        data: The bytes of each; None where it could not be read.
        digests: 128-bit blake3 of each, uint8 [n, 16]; zero where it could not be read.
        failures: By position, files that could not be read.
    """

    ids: Sequence[str]
    data: list[bytes | None]
    digests: NDArray[np.uint8]
    failures: dict[int, Failure] = field(default_factory=dict)


@dataclass
class Prepared:
    """Some images, ready for the encoders that want them.

    Attributes:
        failures: By position, images that no encoder can have.
        preprocess_failures: By preparation and position, images that this one cannot take.
        results: By preparation and position, float32 [C, H, W].
    """

    failures: dict[int, Failure]
    preprocess_failures: dict[Preparation, dict[int, Failure]]
    results: dict[Preparation, dict[int, NDArray[np.float32]]]

    def arrays(self, preparation: Preparation, wanted: Collection[int]) -> tuple[list[int], NDArray[np.float32]]:
        """Positions of the usable images among those wanted, and their arrays as float32 [len(positions), C, H, W]."""
        found = {position: array for position, array in self.results[preparation].items() if position in wanted}
        if not found:
            preprocess = preparation.preprocess
            shape = (0, preprocess.channels, preprocess.size, preprocess.size)
            return [], np.empty(shape, dtype=np.float32)
        return list(found), np.stack(list(found.values()))

    def failed(self, preparation: Preparation, wanted: Collection[int]) -> dict[int, Failure]:
        """By position, images among those wanted that cannot be prepared so."""
        failures = {**self.failures, **self.preprocess_failures[preparation]}
        return {position: failure for position, failure in failures.items() if position in wanted}


def read_inputs(source: Source, wanted: Sequence[tuple[str, Place]], stages: Stages | None = None) -> Inputs:
    """Read and digest some files; one that cannot be read costs no other."""
    stages = Stages() if stages is None else stages
    ids = [id_ for id_, _ in wanted]
    inputs = Inputs(ids, [None] * len(ids), np.zeros((len(ids), _DIGEST_BYTES), dtype=np.uint8))
    for position, (id_, place) in enumerate(wanted):
        with stages.time("read"):
            try:
                data = source.read(id_, place)
            except BadInputError as error:
                inputs.failures[position] = Failure("read", error.message)
                continue
            inputs.data[position] = data
            inputs.digests[position] = content_digest(data)
        stages.bytes_read += len(data)
    return inputs


def prepare(inputs: Inputs, wanted: Mapping[Preparation, Collection[int]], stages: Stages | None = None) -> Prepared:
    """Decode and prepare images; whatever is wrong with one stays with that one.

    Args:
        inputs: The files.
        wanted: By preparation, the positions that it shall be applied to; an image nobody wants is not decoded.
        stages: Counts the time.
    """
    stages = Stages() if stages is None else stages
    prepared = Prepared(
        dict(inputs.failures), {preparation: {} for preparation in wanted}, {preparation: {} for preparation in wanted}
    )
    for position, data in enumerate(inputs.data):
        takers = [preparation for preparation, positions in wanted.items() if position in positions]
        if data is None or not takers:
            continue
        stages.images += 1
        try:
            with stages.time("decode"):
                image = decode_image(data)
        except BadInputError as error:
            prepared.failures[position] = Failure("decode", error.message)
            continue
        for preparation in takers:
            try:
                with stages.time("preprocess"):
                    prepared.results[preparation][position] = preparation.apply(image, inputs.ids[position])
            except (ValueError, OSError, MemoryError) as error:
                failure = Failure("preprocess", f"{type(error).__name__}: {error}")
                prepared.preprocess_failures[preparation][position] = failure
    return prepared
