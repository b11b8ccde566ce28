"""How the kernels of this package are compiled.

Only the kernel modules import this one, inside the functions that need them: importing `featstore.evaluate` must not
load numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile on first call, keep the machine code beside the source, and release the interpreter while running.

    `fastmath` stays off: the canonical score is defined by the order of its additions.
    """
    return cast("Function", numba.njit(cache=True, nogil=True, error_model="numpy")(function))
