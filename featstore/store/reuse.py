"""Row-level reuse: features that any dataset of the store already has for an input, found by the digest of its bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import CorruptStoreError, FeatstoreError, NotFoundError
from featstore.spaces import Space
from featstore.store.arrays import StoredArray
from featstore.store.chunks import CheckedChunks
from featstore.store.digest_index import INDEX, prefixes, space_key
from featstore.store.features import FeatureSet, group_key
from featstore.store.files import Files
from featstore.store.records import VectorSegment
from featstore.store.store import Store

__all__ = ["Copied", "DigestIndex"]


@dataclass(frozen=True)
class Copied:
    """What an index found for some inputs.

    Attributes:
        features: [n, D] of the dtype asked for; NaN where nothing was found.
        sources: `DATASET/NAME` each row was copied from, None where nothing was found.
    """

    features: NDArray[Any]
    sources: list[str | None]

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which rows were found, [n]."""
        return np.array([source is not None for source in self.sources], dtype=bool)


class DigestIndex:
    """The features of one space by the 128-bit blake3 of their inputs, over the newest versions of all sets of a store.

    Rows that were removed, sets that are gone and chunks that are damaged are not found: what cannot be copied can be
    computed. A digest counts as found only when all of its bits agree.

    Args:
        store: The store. Its index pointers are listed once, when this is made.
        space: The space.
        leave_out: `DATASET/NAME` of a set whose rows are not wanted.
    """

    def __init__(self, store: Store, space: Space, *, leave_out: str = "") -> None:
        self._store = store
        self._space = space
        self._segments = [
            segment
            for name, listed in self._pointers().items()
            if name != leave_out
            for segment in self._open(name, listed)
        ]

    def __bool__(self) -> bool:
        return bool(self._segments)

    def copy(self, digests: NDArray[np.uint8], dtype: np.dtype[Any], *, emitted: np.dtype[Any] | None = None) -> Copied:
        """The features of some inputs, as encoding them again and storing them as `dtype` would give them.

        Args:
            digests: 128-bit blake3 of each input, uint8 [n, 16]; zero is unknown and never found.
            dtype: Type that is wanted.
            emitted: Type the encoder gives. A set that was stored narrower than this lost digits, so its rows count only where
                the same narrow type is wanted. None stands for `dtype`.
        """
        out = np.full((len(digests), self._space.width), np.nan, dtype=dtype)
        sources: list[str | None] = [None] * len(digests)
        wanted = np.flatnonzero(digests.any(axis=1))
        enough = (emitted or dtype).itemsize
        for segment in self._segments:
            if not len(wanted):
                break
            if segment.dtype != dtype and segment.dtype.itemsize < enough:
                continue
            with contextlib.suppress(CorruptStoreError, NotFoundError):
                features = np.empty((len(wanted), self._space.width), dtype=dtype)
                found = segment.take(digests[wanted], features)
                out[wanted[found]] = features[found]
                for position in wanted[found].tolist():
                    sources[position] = segment.name
                wanted = wanted[~found]
        return Copied(out, sources)

    def _pointers(self) -> dict[str, list[str]]:
        """Segments with an index by `DATASET/NAME`."""
        base = space_key(self._space)
        found: dict[str, list[str]] = {}
        for info in sorted(self._store.files.walk(base)):
            name, _, segment = info.key[len(base) + 1 :].rpartition("/")
            found.setdefault(name, []).append(segment.removesuffix(".json"))
        return found

    def _open(self, name: str, listed: list[str]) -> Iterator[_Segment]:
        try:
            features = self._store.features(name)
        except FeatstoreError:
            return  # gone, damaged, or written by a newer featstore
        if features.space.digest != self._space.digest:
            return  # removed and made again with another encoder
        for segment in dict.fromkeys(part.name for part in features.record.segments):
            if segment in listed:
                yield _Segment(self._store.files, features, segment)


class _Segment:
    """The index of one segment of one feature set."""

    def __init__(self, files: Files, features: FeatureSet, segment: str) -> None:
        self.name = features.name
        self.dtype = features.dtype
        self._files = files
        self._features = features
        self._key = group_key(features.record, segment)
        # a repair may have replaced some of its rows, so that it is listed in parts
        self._parts = [part for part in features.record.segments if part.name == segment]

    @cached_property
    def _prefixes(self) -> StoredArray:
        return StoredArray(self._files, f"{self._key}/{INDEX}/prefix", self._parts[0].indexed, mapped=True)

    @cached_property
    def _rows(self) -> StoredArray:
        return StoredArray(self._files, f"{self._key}/{INDEX}/row", self._parts[0].indexed, mapped=True)

    @cached_property
    def _chunks(self) -> CheckedChunks:
        part: VectorSegment = self._parts[0]
        return CheckedChunks(self._files, self._key, part, self._features.width, self.dtype)

    def take(self, digests: NDArray[np.uint8], out: NDArray[Any]) -> NDArray[np.bool_]:
        """Put the features of inputs [n, 16] into `out` [n, D]; which were found, [n]."""
        keys = prefixes(digests)
        order = np.argsort(keys, kind="stable")
        positions = np.empty(len(keys), dtype=np.int64)
        positions[order] = self._prefixes.find_many(keys[order])
        found = np.zeros(len(digests), dtype=bool)
        left = np.arange(len(digests))
        while len(left):
            # several rows may share a prefix: the same input twice, or another one
            here = positions[left] < len(self._prefixes)
            left = left[here]
            same = np.array(
                [self._prefixes[at] == key for at, key in zip(positions[left], keys[left], strict=True)], bool
            )
            left = left[same]
            rows = np.array([self._rows[at] for at in positions[left]], dtype=np.int64)
            usable = self._usable(rows)
            hits = left[usable]
            agree = (self._chunks.digests(rows[usable]) == digests[hits]).all(axis=1)
            hits, rows = hits[agree], rows[usable][agree]
            part = np.empty((len(hits), out.shape[1]), dtype=out.dtype)
            good = self._chunks.features(rows, part)
            out[hits[good]] = part[good]
            found[hits[good]] = True
            left = left[~found[left]]
            positions[left] += 1
        return found

    def _usable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows of the group are listed in the version and were not removed."""
        usable = np.zeros(len(rows), dtype=bool)
        removed = self._features.dataset.removed_rows
        for part in self._parts:
            inside = (rows >= part.offset) & (rows < part.offset + part.rows)
            usable |= inside & ~np.isin(rows - part.offset + part.start, removed)
        return usable
