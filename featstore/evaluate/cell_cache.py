"""Cells that were measured before: the same versions, rows, ground truth and metrics give the same values.

Values are kept in the user's cache beside copied segments (`$FEATSTORE_CACHE`, else `~/.cache/featstore`), named by a
digest of everything that they depend on. Each file begins with the digest of the rest; a damaged one is measured again.
"""

from __future__ import annotations

import io
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

import featstore
from featstore.errors import NotFoundError
from featstore.evaluate.arrays import PerQuery
from featstore.store import cache_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featstore.progress import Progress

__all__ = ["cell_key", "load_cell", "save_cell"]

# Raised when the same inputs come to other values.
_FORMAT = 1
_DIGEST = 32


def cell_key(inputs: dict[str, Any]) -> str:
    """The name of a cell's values: a digest of what they depend on, and of the program that measures them."""
    described = {"format": _FORMAT, "featstore": featstore.__version__, **inputs}
    return f"cells/{blake3(json.dumps(described, sort_keys=True).encode()).hexdigest()}"


def load_cell(key: str) -> PerQuery | None:
    """The values of that name; None when they are not there, or damaged."""
    try:
        found = cache_files().get(key)
    except (NotFoundError, OSError):
        return None
    if blake3(found[_DIGEST:]).digest() != found[:_DIGEST]:
        return None
    with np.load(io.BytesIO(found[_DIGEST:]), allow_pickle=False) as arrays:
        rest = json.loads(arrays["rest"].tobytes())

        def table(name: str) -> dict[str, NDArray[np.float64]]:
            return {metric: arrays[f"{name}/{metric}"] for metric in rest["metrics"]}

        return PerQuery(
            values=table("values"),
            lowest=table("lowest"),
            highest=table("highest"),
            expected_map=arrays["expected_map"],
            n_positives=arrays["n_positives"],
            tied=arrays["tied"],
            counted=arrays["counted"],
            width=rest["width"],
            thresholds=rest["thresholds"],
            warnings=tuple(rest["warnings"]),
        )


def save_cell(key: str, found: PerQuery, progress: Progress) -> None:
    """Keep the values; where the cache cannot be written, the user is told and nothing else happens."""
    rest = {
        "metrics": list(found.values),
        "width": found.width,
        "thresholds": found.thresholds,
        "warnings": found.warnings,
    }
    arrays: dict[str, Any] = {"rest": np.frombuffer(json.dumps(rest).encode(), np.uint8)}
    for item in fields(found):
        value = getattr(found, item.name)
        if isinstance(value, np.ndarray):
            arrays[item.name] = value
        elif item.name in ("values", "lowest", "highest"):
            arrays |= {f"{item.name}/{metric}": column for metric, column in value.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data = buffer.getvalue()
    try:
        cache_files().put(key, blake3(data).digest() + data)
    except OSError as error:
        progress.note(f"the cell was not kept for another time: {error}")
