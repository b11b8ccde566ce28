"""`.safetensors`: tensors behind one JSON header. Its library checks the header; the data is mapped, not loaded.

Only numbers have a place in it. Texts (ids, labels) are a CSV beside it, or JSON lists in the header's metadata.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featstore.convert.formats.base import Format, RawColumn, Source, check_matrix, find
from featstore.convert.matrix import Mapped, map_file
from featstore.convert.selection import Selection
from featstore.errors import BadInputError
from featstore.foreign import reading

__all__ = ["SAFETENSORS"]

_TYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "|b1",
    "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "|u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip
_NAMES = {"float16": "F16", "float32": "F32", "float64": "F64"}
_LENGTH = struct.Struct("<Q")


@contextmanager
def _read(path: Path, key: str) -> Iterator[Source]:
    tensors, metadata, begin = _header(path)
    chosen = tensors.pop(find(tensors, key, path))
    if chosen["dtype"] not in _TYPES:
        raise BadInputError(
            f"'{key}' in {path} is {chosen['dtype']}, which cannot be stored", hint="save it as F16, BF16, F32 or F64"
        )
    check_matrix(tuple(chosen["shape"]), np.dtype(_TYPES[chosen["dtype"]]), path)
    matrix = Mapped(_map(path, chosen, begin), bfloat16=chosen["dtype"] == "BF16")
    columns: dict[str, Callable[[], RawColumn]] = {}
    left_out: dict[str, str] = {}
    for name, tensor in tensors.items():
        if len(tensor["shape"]) == 1 and tensor["dtype"] in _TYPES and tensor["dtype"] != "BF16":
            columns[name] = partial(_map, path, tensor, begin)
        else:
            left_out[name] = f"it is {tensor['dtype']} of shape {tuple(tensor['shape'])}"
    for name, text in metadata.items():
        listed = _listed(text)
        if listed is not None and len(listed) == matrix.shape[0] and name not in tensors:
            columns[name] = partial(list, listed)
    yield Source(matrix, columns, left_out)


def _header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """(tensors by name, metadata, first byte of the data)."""
    from safetensors import SafetensorError, safe_open

    with reading(path):
        try:
            with safe_open(path, framework="numpy"):  # checks sizes, offsets, overlaps and holes
                pass
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            tensors = json.loads(file.read(length))
    metadata = tensors.pop("__metadata__", None) or {}
    return tensors, metadata, _LENGTH.size + length


def _map(path: Path, tensor: dict[str, Any], begin: int) -> Any:
    return map_file(path, np.dtype(_TYPES[tensor["dtype"]]), tuple(tensor["shape"]), begin + tensor["data_offsets"][0])


def _listed(text: str) -> list[str | None] | None:
    """A JSON list of texts, else None."""
    try:
        found = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(value is None or isinstance(value, str) for value in found):
        return None
    return [value or None for value in found]


def _write(path: Path, chosen: Selection) -> None:
    rows, width = chosen.shape
    size = rows * width * chosen.dtype.itemsize
    entry = {"dtype": _NAMES[chosen.features.dtype.name], "shape": [rows, width], "data_offsets": [0, size]}
    header = json.dumps({"features": entry}).encode()
    header += b" " * (-len(header) % 8)  # so that the data is aligned
    with path.open("wb") as stream:
        stream.write(_LENGTH.pack(len(header)) + header)
        for block in chosen.blocks():
            stream.write(block.tobytes())


SAFETENSORS = Format(_read, _write, rows_beside=True)
