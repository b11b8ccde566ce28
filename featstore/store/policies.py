"""What becomes of rows that can be stored but may not be meant."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["ZeroRows", "all_zero"]

ZeroRows = Literal["error", "keep"]


def all_zero(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of [n, D] are zero throughout: they have no direction to compare, and are often an item that failed.

    Side-information may have them.
    """
    return np.asarray(~features.any(axis=1))
