"""One image that a network cannot take costs no other image its feature, and a batch that is too large none at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featstore.encoders import Encoder
from featstore.extract.inputs import Failure

__all__ = ["Room", "encode_isolated"]

# what torch raises on the CPU has no type of its own
_CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad allocation", "std::bad_alloc")


@dataclass
class Room:
    """How many images an encoder has memory for, as far as it ran out of it.

    Attributes:
        images: At once; None while it never did.
    """

    images: int | None = None


def encode_isolated(
    encoder: Encoder, positions: Sequence[int], arrays: NDArray[np.float32], room: Room | None = None
) -> tuple[list[int], NDArray[Any], dict[int, Failure]]:
    """Encode a batch: in halves if memory runs out, and one image at a time if the network raises anything else.

    Args:
        encoder: What encodes.
        positions: Names the images in the results.
        arrays: float32 [len(positions), C, H, W].
        room: What is known of the memory; learns from a batch that is too large.

    Returns:
        Positions that were encoded, their features [n, D] (perhaps with NaN), and why the others were not.
    """
    room = Room() if room is None else room
    done: list[int] = []
    features = [np.empty((0, encoder.width), dtype=encoder.dtype)]
    failures: dict[int, Failure] = {}
    first, alone = 0, False
    while first < len(positions):
        count = 1 if alone else min(room.images or len(positions), len(positions) - first)
        part = arrays[first : first + count]
        result = _attempt(encoder, part)
        if isinstance(result, np.ndarray):
            done += positions[first : first + count]
            features.append(result)
        elif count > 1 and _out_of_memory(result):
            room.images = count // 2
            torch.cuda.empty_cache()  # does nothing where CUDA is not in use
            continue
        elif count > 1:
            alone = True
            continue
        else:
            failures[positions[first]] = Failure("encode", f"{type(result).__name__}: {result}"[:300])
        first += count
    return done, np.concatenate(features), failures


def _attempt(encoder: Encoder, arrays: NDArray[np.float32]) -> NDArray[Any] | Exception:
    """The features, or what the network raised, without the frames that hold its tensors."""
    try:
        return encoder.encode(arrays)
    except Exception as error:  # noqa: BLE001 - the network is foreign code and may raise anything
        return error.with_traceback(None)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_OUT_OF_MEMORY)
