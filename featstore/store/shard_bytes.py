"""The bytes of one shard of features, made chunk by chunk while they are being written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.store.zarr_format import encode_chunk, encode_index

__all__ = ["ShardBytes", "all_finite"]


class ShardBytes:
    """A shard's file as pieces: each chunk is cast, checked, summed and digested just before it is asked for.

    Args:
        features: [n, D], floating point.
        valid: bool [n]; other rows become NaN throughout.
        dtype: What is stored.
        chunk_rows: Rows of an inner chunk.
        shard_rows: Rows of a full shard.

    Attributes:
        digest: blake3 of all pieces, hex; complete when the last piece was taken.
    """

    def __init__(
        self, features: NDArray[Any], valid: NDArray[np.bool_], dtype: np.dtype[Any], chunk_rows: int, shard_rows: int
    ) -> None:
        self._features = features
        self._valid = valid
        self._all_valid = bool(valid.all())
        self._dtype = dtype
        self._chunk_rows = chunk_rows
        self._shard_rows = shard_rows
        self._digest = blake3()

    @property
    def digest(self) -> str:
        """The digest of what was taken so far."""
        return self._digest.hexdigest()

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The pieces in order.

        Raises:
            FloatingPointError: a valid row holds NaN or infinity, or its dtype cannot hold it; nothing more is yielded.
        """
        self._digest = blake3()
        for start in range(0, len(self._features), self._chunk_rows):
            stop = start + self._chunk_rows
            block = self.rows(start, stop)
            if not all_finite(block) and not np.isfinite(block[self._valid[start:stop]]).all():
                raise FloatingPointError
            for piece in encode_chunk(block, self._chunk_rows):
                self._digest.update(piece)
                yield piece
        row_bytes = self._features.shape[1] * self._dtype.itemsize
        for piece in encode_index(len(self._features), row_bytes, self._chunk_rows, self._shard_rows):
            self._digest.update(piece)
            yield piece

    def rows(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows [start, stop) as they are stored."""
        block = self._features[start:stop]
        if block.dtype != self._dtype:
            with np.errstate(over="ignore"):
                block = block.astype(self._dtype)
        if not self._all_valid:
            block = np.where(self._valid[start:stop, None], block, self._dtype.type(np.nan))
        return np.ascontiguousarray(block)


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite; False may also mean that the values are huge.

    One pass without a temporary: half floats by their bits (their arithmetic is slow), others by their sum, which is
    finite only if they are.
    """
    flat = values.reshape(-1)
    if values.dtype == np.float16:
        largest, most_negative = flat.view(np.int16).max(initial=0), flat.view(np.uint16).max(initial=0)
        return bool(largest < 0x7C00 and most_negative < 0xFC00)  # the bits of +inf and −inf
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(flat)))
