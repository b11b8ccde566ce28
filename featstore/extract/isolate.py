"""One image that a network cannot take costs no other image its feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.encoders import Encoder
from featstore.extract.inputs import Failure

__all__ = ["encode_isolated"]


def encode_isolated(
    encoder: Encoder, positions: Sequence[int], arrays: NDArray[np.float32]
) -> tuple[list[int], NDArray[Any], dict[int, Failure]]:
    """Encode a batch; if the network raises, one image at a time.

    Args:
        encoder: What encodes.
        positions: Names the images in the results.
        arrays: float32 [len(positions), C, H, W].

    Returns:
        Positions that were encoded, their features [n, D] (perhaps with NaN), and why the others were not.
    """
    nothing = np.empty((0, encoder.width), dtype=encoder.dtype)
    if not positions:
        return [], nothing, {}
    try:
        return list(positions), encoder.encode(arrays), {}
    except Exception as error:  # noqa: BLE001 - the network is foreign code and may raise anything
        if len(positions) == 1:
            return [], nothing, {positions[0]: Failure("encode", f"{type(error).__name__}: {error}"[:300])}
    done: list[int] = []
    features = [nothing]
    failures: dict[int, Failure] = {}
    for k, position in enumerate(positions):
        one, feature, refused = encode_isolated(encoder, [position], arrays[k : k + 1])
        done += one
        features.append(feature)
        failures |= refused
    return done, np.concatenate(features), failures
