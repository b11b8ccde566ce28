"""Generators of one purpose each, so that what one part draws never depends on what another drew before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["array_generator", "derived_seed", "global_seed", "tensor_generator"]


def tensor_generator(seed: int, purpose: str) -> torch.Generator:
    """A torch generator of its own."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


def array_generator(seed: int, purpose: str) -> np.random.Generator:
    """A numpy generator of its own."""
    return np.random.default_rng(derived_seed(seed, purpose))


@contextmanager
def global_seed(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global generator for code that draws from it (default initialisations), and put it back after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, purpose))
        yield


def derived_seed(seed: int, purpose: str) -> int:
    """Another seed, the same for the same seed and purpose."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # 63 bits: torch takes no larger seed than int64
