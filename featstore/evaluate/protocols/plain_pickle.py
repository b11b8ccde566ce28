"""Reading a published pickle without executing anything of it: plain containers, numbers, text and number arrays only.

A pickle is a program that may call whatever `find_class` gives it. Here that is nothing but the stand-ins below, which
hold numbers; every other name refuses the file. NumPy's own constructors are not reachable.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featstore.errors import BadInputError, UntrustedError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_plain_pickle"]

_MOST_BYTES = 256 * 2**20
_CODES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f4", "f8", "b1"}


class _Dtype:
    def __init__(self, code: str, *_: object) -> None:
        if code not in _CODES:
            raise ValueError(f"an array of {code}")
        self._code = code
        self._order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = {"<": "<", ">": ">", "|": "|", "=": "<"}[state[1]]

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


class _Array:
    """An array while it is read; `values` afterwards."""

    values: list[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self._fill(data, dtype, shape, "F" if fortran else "C")

    def _fill(self, data: bytes | str, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> None:
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.values = np.frombuffer(raw, dtype.numpy()).reshape([int(size) for size in shape], order=order).tolist()

    @classmethod
    def of_buffer(cls, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
        array = cls()
        array._fill(data, dtype, shape, "F" if order == "F" else "C")
        return array


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.numpy(), count=1)[0].item()


def _encode(text: str, *_: object) -> bytes:
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Array.of_buffer


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UntrustedError(
                f"the pickle wants to use {module}.{name}, which holds more than plain data",
                hint="do not open it elsewhere either; get the file from its publisher again, or give it as JSON",
            )
        return _ALLOWED[module, name]


def read_plain_pickle(path: Path) -> Any:
    """The lists, dictionaries, tuples, numbers and texts of a pickle; arrays become lists.

    Raises:
        UntrustedError: It uses anything else.
        BadInputError: It is damaged or larger than 256 MiB.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise BadInputError(f"{path} has {path.stat().st_size:,} bytes, more than a ground truth can have")
    try:
        return _plain(_Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except UntrustedError as error:
        raise UntrustedError(f"{path}: {error.message}", hint=error.hint) from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises anything
        raise BadInputError(
            f"{path} is not a pickle of plain data: {error}", hint="give the ground truth as JSON"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, _Array):
        return value.values
    if value is None or isinstance(value, (str, bytes, int, float, bool)):
        return value
    raise ValueError(f"a {type(value).__name__.strip('_').lower()} where data was expected")
