"""What must be true of features before anything of them is written: found by one pass over the file.

The pass also finds the narrowest type that loses nothing, and which rows of one id are the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.convert.matrix import Matrix
from featstore.errors import BadInputError, NonFiniteError, sample_of
from featstore.progress import Progress
from featstore.store.policies import ZeroRows, all_zero

__all__ = ["Duplicates", "check_rows", "first_rows"]

Duplicates = Literal["error", "same", "first"]

_TYPES = tuple(np.dtype(name) for name in ("float16", "float32", "float64"))
_NAMED = 5


def first_rows(ids: Sequence[str]) -> NDArray[np.int64]:
    """For each row the first row with the same id, int64 [len(ids)]; ids are compared in Unicode form NFC."""
    seen: dict[str, int] = {}
    first = (seen.setdefault(unicodedata.normalize("NFC", text), row) for row, text in enumerate(ids))
    return np.fromiter(first, dtype=np.int64, count=len(ids))


def check_rows(
    matrix: Matrix,
    first: NDArray[np.int64] | None,
    names: Callable[[Sequence[int]], list[str]],
    *,
    dtype: np.dtype[Any] | None,
    duplicates: Duplicates,
    zero_rows: ZeroRows,
    progress: Progress,
) -> np.dtype[Any]:
    """Read all rows once; return the type they are stored in.

    Args:
        matrix: The features.
        first: `first_rows` of the ids; None if there are no ids to repeat.
        names: Ids of some rows, for messages.
        dtype: The type that was asked for; None for the narrowest that loses nothing.
        duplicates: `same` and `first` allow an id to stand there again; `same` only with the same feature.
        zero_rows: Whether rows of zeros are refused or kept.
        progress: Listener.

    Raises:
        BadInputError: repeated ids, rows of zeros.
        NonFiniteError: NaN or infinity, or numbers that the type cannot hold.
    """
    rows = matrix.shape[0]
    own = np.arange(rows) if first is None else first
    repeated = np.flatnonzero(own != np.arange(rows))
    if len(repeated) and duplicates == "error":
        raise BadInputError(
            f"an id that stood there before in {len(repeated):,} of {rows:,} rows: "
            + sample_of(names(repeated[:_NAMED].tolist()), total=len(repeated)),
            hint="--duplicates same merges rows with equal features, --duplicates first keeps the first of each id",
        )
    used = np.ones(rows, dtype=bool)
    if duplicates == "first":
        used[repeated] = False
    compared = set(np.union1d(repeated, own[repeated]).tolist()) if duplicates == "same" else set()
    digests: dict[int, bytes] = {}
    not_finite, not_held, zero = _Rows(), _Rows(), _Rows()
    candidates = [kind for kind in _TYPES if kind.itemsize >= matrix.narrowest.itemsize] if dtype is None else [dtype]

    progress.start("checking the rows", rows, "rows")
    start = 0
    for block in matrix.blocks():
        stop = start + len(block)
        here = used[start:stop]
        finite = np.isfinite(block).all(axis=1)
        not_finite.add(start + np.flatnonzero(here & ~finite))
        good = here & finite
        sound = block if good.all() else block[good]
        while len(candidates) > 1 and not _exact(sound, candidates[0]):
            candidates.pop(0)
        with np.errstate(over="ignore", invalid="ignore"):
            stored = block if candidates[0] == block.dtype else block.astype(candidates[0])
        held = finite if stored is block else np.isfinite(stored).all(axis=1)
        if dtype is None and block.dtype.kind in "iu" and not _exact(block, candidates[0]):
            held = (stored.astype(block.dtype) == block).all(axis=1)
        not_held.add(start + np.flatnonzero(good & ~held))
        zero.add(start + np.flatnonzero(here & all_zero(stored)))
        for row in compared.intersection(range(start, stop)):
            digests[row] = blake3((block[row - start] + 0).tobytes()).digest()  # + 0 makes −0 equal to 0
        progress.advance(len(block))
        start = stop

    differing = [row for row in repeated.tolist() if compared and digests[row] != digests[own[row]]]
    if differing:
        raise BadInputError(
            f"the id of an earlier row, and another feature, in {len(differing):,} of {rows:,} rows: "
            + sample_of(names(differing[:_NAMED]), total=len(differing)),
            hint="give every item its own id, or keep the first row of each id with --duplicates first",
        )
    if not_finite:
        raise NonFiniteError(
            f"NaN or infinity in {not_finite.among(rows, names)}",
            hint="look at these inputs; remove the rows, or repair what produced them",
        )
    if not_held:
        raise NonFiniteError(
            f"numbers that do not fit {candidates[0].name} in {not_held.among(rows, names)}",
            hint="choose a wider type with --dtype" if dtype is not None else "say --dtype float64 to round them",
        )
    if zero and zero_rows == "error":
        raise BadInputError(
            f"nothing but zeros in {zero.among(rows, names)}",
            hint="often an item that failed, and it has no direction to compare; --zero-rows keep imports them as they are",
        )
    return candidates[0]


@dataclass
class _Rows:
    """How many rows, and the first few of them."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, rows: NDArray[np.int64]) -> None:
        self.count += len(rows)
        self.first += rows[: _NAMED - len(self.first)].tolist()

    def among(self, rows: int, names: Callable[[Sequence[int]], Sequence[object]]) -> str:
        """What to say of them."""
        return f"{self.count:,} of {rows:,} rows: {sample_of(names(self.first), total=self.count)}"

    def __bool__(self) -> bool:
        return self.count > 0


def _exact(values: NDArray[Any], kind: np.dtype[Any]) -> bool:
    """Whether a type holds all values as they are."""
    if values.dtype == kind:
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.array_equal(values.astype(kind).astype(values.dtype), values))
