"""A feature set at one version: rows by number, by block or by id, at memory-map speed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import AlignmentError, CorruptStoreError, IncompleteError, NotFoundError, UsageError, sample_of
from featstore.spaces import Space
from featstore.store.arrays import read_array
from featstore.store.dataset import Dataset
from featstore.store.declarations import declared_with
from featstore.store.files import Files
from featstore.store.log import Log
from featstore.store.records import FeatureSetVersion, RowFailure, ShardRecord, fetch_all
from featstore.store.segment import SegmentReader
from featstore.store.shuffle import shuffled

__all__ = ["PART", "FeatureSet", "RowStatus", "features_log", "group_key", "plan_key", "set_key"]

PART = "part"  # the array of a mixture's group


class RowStatus:
    """What a row of a feature set is."""

    ABSENT = 0
    VALID = 1
    FAILED = 2


class FeatureSet:
    """One matrix [N, D] row-aligned to a dataset. Row numbers are the dataset's.

    Features come as stored: the encoder's own dtype and norm. Whoever compares them normalises.

    Attributes:
        name: `DATASET/NAME`.
        ref: `DATASET/NAME@version`.
        version: Number of the version that is read.
        rows: Rows covered (the dataset may have grown since).
        width: Components of a row (`D`).
        dtype: Stored dtype.
        dataset: The dataset at the newest version with the same layout; its rows and these align by number.
    """

    def __init__(self, files: Files, record: FeatureSetVersion, dataset: Dataset) -> None:
        self._files = files
        self.record = record
        self.name = f"{record.dataset}/{record.name}"
        self.ref = f"{self.name}@{record.number}"
        self.version = record.number
        self.rows = record.rows
        self.width = record.space.width
        self.dtype: np.dtype[Any] = np.dtype(record.dtype)
        self.dataset = dataset
        if dataset.layout != record.layout:
            raise AlignmentError(f"{self.ref} and {dataset!r} number their rows differently")
        self._first_rows = [segment.start for segment in record.segments]
        self._starts = np.array(self._first_rows, dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureSet, (self._files, self.record, self.dataset)

    def __repr__(self) -> str:
        return f"FeatureSet({self.ref}, {self.rows}×{self.width} {self.dtype.name})"

    @cached_property
    def space(self) -> Space:
        """What makes its vectors comparable, with what people declared since (`Store.declare`)."""
        parts = self.parts
        return parts[0] if len(parts) == 1 else Space.mixed(parts)

    @cached_property
    def parts(self) -> tuple[Space, ...]:
        """The spaces that its rows lie in: one, or those of a mixed set (see `part_of_rows`)."""
        mixture = self.record.mixture
        return tuple(map(self._with_declared, mixture.parts if mixture else (self.record.space,)))

    def part_of_rows(self) -> NDArray[np.uint8]:
        """Which of `parts` each row lies in, uint8 [rows].

        Raises:
            CorruptStoreError: what says so is missing or damaged.
        """
        mixture = self.record.mixture
        if mixture is None:
            return np.zeros(self.rows, np.uint8)
        part = read_array(self._files, f"{group_key(self.record, mixture.name)}/{PART}", self.rows)
        if len(part) and part.max() >= len(mixture.parts):
            raise CorruptStoreError(f"{self.ref} has rows of a space that it does not name")
        return part

    def rows_by_space(self) -> list[tuple[str, int]]:
        """The names of its spaces and how many valid rows lie in each."""
        part = self.part_of_rows()[self.valid_rows()] if self.record.mixture else np.zeros(len(self.valid_rows()), int)
        counts = np.bincount(part, minlength=len(self.parts))
        return [(space.name, int(count)) for space, count in zip(self.parts, counts, strict=True)]

    def _with_declared(self, recorded: Space) -> Space:
        declared = {other for made in declared_with(self._files, recorded.digest) for other in made.spaces}
        more = sorted(declared - {recorded.digest, *recorded.compatible_with})
        return recorded.model_copy(update={"compatible_with": (*recorded.compatible_with, *more)})

    @cached_property
    def _segments(self) -> list[SegmentReader]:
        return [
            SegmentReader(self._files, group_key(self.record, part.name), part, self.width, self.dtype)
            for part in self.record.segments
        ]

    @cached_property
    def _complete(self) -> bool:
        """Whether every row has a feature and is still there, so that nothing needs to be checked row by row."""
        removed = self.dataset.removed_rows
        return all(part.valid == part.rows for part in self.record.segments) and not (removed < self.rows).any()

    @cached_property
    def _visible(self) -> NDArray[np.bool_]:
        visible: NDArray[np.bool_] = self._status == RowStatus.VALID
        removed = self.dataset.removed_rows
        visible[removed[removed < self.rows]] = False
        return visible

    @cached_property
    def _status(self) -> NDArray[np.uint8]:
        return np.concatenate([np.zeros(0, np.uint8), *(segment.status() for segment in self._segments)])

    def status(self) -> NDArray[np.uint8]:
        """RowStatus of every row, uint8 [rows]; removed rows are absent."""
        status = self._status.copy()
        removed = self.dataset.removed_rows
        status[removed[removed < self.rows]] = RowStatus.ABSENT
        return status

    def valid_rows(self) -> NDArray[np.int64]:
        """Rows that have a feature and were not removed, ascending."""
        if self._complete:
            return np.arange(self.rows, dtype=np.int64)
        return np.flatnonzero(self._visible)

    def input_digests(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """128-bit blake3 of some rows' inputs, uint8 [len(rows), 16], or of every row's; zero where unknown."""
        if rows is None:
            return np.concatenate([np.zeros((0, 16), np.uint8), *(part.input_digests() for part in self._segments)])
        out = np.empty((len(rows), 16), dtype=np.uint8)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner).tolist():
            out[owner == number] = self._segments[number].input_digests(rows[owner == number] - self._starts[number])
        return out

    def failures(self) -> list[RowFailure]:
        """The ledger: every failed row that was not removed, with its stage and error.

        Raises:
            CorruptStoreError: a shard's record is missing or damaged.
        """
        found: list[RowFailure] = []
        for part in self.record.segments:
            plan = plan_key(self.record.dataset, self.record.name, part.name)
            keys = [f"{plan}/shards/{shard}.json" for shard in part.shards]
            try:
                found += [
                    failure for record in fetch_all(self._files, ShardRecord, keys) for failure in record.failures
                ]
            except NotFoundError as error:
                raise CorruptStoreError(
                    f"a shard record is missing: {error.message}", hint="`featstore repair --from STORE`"
                ) from None
        removed = set(self.dataset.removed_rows.tolist())
        return sorted((failure for failure in found if failure.row not in removed), key=lambda failure: failure.row)

    def row(self, number: int) -> NDArray[Any]:
        """One row as a fresh array [D] in the stored dtype; faster than `gather` for one.

        Raises:
            IncompleteError: the row has no feature.
            IndexError: the row number is out of range.
        """
        if not 0 <= number < self.rows or not (self._complete or self._visible[number]):
            self._check(np.array([number]))  # raises
        part = bisect_right(self._first_rows, number) - 1
        return self._segments[part].row(number - self._first_rows[part])

    def gather(self, rows: NDArray[np.int64] | Sequence[int], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows in any order, repeats allowed, as [len(rows), D] in the stored dtype.

        Args:
            rows: Row numbers.
            out: Where to put them, [len(rows), D]; made if not given. Fastest when C-contiguous in the stored dtype.

        Raises:
            IncompleteError: a row has no feature.
            IndexError: a row number is out of range.
        """
        rows = np.asarray(rows, dtype=np.int64)
        self._check(rows)
        if out is None:
            out = np.empty((len(rows), self.width), dtype=self.dtype)
        elif out.shape != (len(rows), self.width):
            raise AlignmentError(
                f"out has shape {out.shape}, {len(rows)} rows of {self.ref} need {(len(rows), self.width)}"
            )
        direct = out.dtype == self.dtype and out.flags.c_contiguous
        found = out if direct else np.empty((len(rows), self.width), dtype=self.dtype)
        if len(self._segments) == 1:
            self._segments[0].gather(rows, found)
        else:
            owner = np.searchsorted(self._starts, rows, side="right") - 1
            for number, segment in enumerate(self._segments):
                into = np.flatnonzero(owner == number)
                part = np.empty((len(into), self.width), dtype=self.dtype)
                segment.gather(rows[into] - self._starts[number], part)
                found[into] = part
        if not direct:
            out[...] = found
        return out

    def take_ids(self, ids: Sequence[str]) -> NDArray[Any]:
        """Features of some ids, in the order given.

        Raises:
            AlignmentError: the dataset has no such ids; they are listed.
            IncompleteError: an id has no feature in this set.
        """
        return self.gather(self.dataset.rows_of(ids))

    def scan(self, batch: int | None = None, rows: tuple[int, int] | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Blocks in row order: (first row, [b, D]). Invalid rows are NaN.

        Args:
            batch: Rows of a block; None takes the stored chunks, whose blocks are views of the file and cost no copy.
            rows: [start, stop); None for all.
        """
        start, stop = rows or (0, self.rows)
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start} to {stop} of {self.ref}, which has {self.rows}")
        for part, segment in zip(self.record.segments, self._segments, strict=True):
            position, end = max(start, part.start), min(stop, part.stop)
            size = batch or part.chunk_rows
            while position < end:
                local = position - part.start
                take = min(end - position, size - local % size)
                block = segment.block(local, local + take)
                if not self._complete and not (seen := self._visible[position : position + take]).all():
                    block = np.where(seen[:, None], block, block.dtype.type(np.nan))
                yield position, block
                position += take

    def shuffled(
        self,
        batch: int,
        seed: int | Sequence[int],
        *,
        buffer_blocks: int = 8,
        rows: NDArray[np.int64] | Sequence[int] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Every chosen row once, in random batches: (row numbers [b], features [b, D]).

        For sets in object stores or larger than memory, where single random rows are slow: random blocks of rows (about 8 MiB
        each) are read, several to a buffer, and the buffer is permuted. The next buffer is read while one is used. The order
        depends on the seed, the rows, the width and the dtype only, never on where the store is or how it is sharded.

        Args:
            batch: Rows of a batch; the last has what is left.
            seed: For example [7, epoch].
            buffer_blocks: Blocks that are mixed with each other; more is more random and takes more memory.
            rows: Row numbers; None for all that have a feature.

        Raises:
            IncompleteError: a row has no feature.
            IndexError: a row number is out of range.
            UsageError: `batch` or `buffer_blocks` is below 1.
        """
        if batch < 1 or buffer_blocks < 1:
            raise UsageError(f"batches of {batch} rows from {buffer_blocks} blocks", hint="give 1 or more of each")
        chosen = self.valid_rows() if rows is None else np.unique(np.asarray(rows, dtype=np.int64))
        self._check(chosen)
        return shuffled(self, chosen, batch, seed, buffer_blocks)

    def _check(self, rows: NDArray[np.int64]) -> None:
        if not len(rows):
            return
        if rows.min() < 0 or rows.max() >= self.rows:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.ref}, which has {self.rows}")
        if not self._complete:
            bad = rows[~self._visible[rows]]
            if len(bad):
                ids = sample_of(self.dataset.ids.take(bad[:5]), total=len(bad))
                raise IncompleteError(
                    f"{len(bad)} of these rows have no feature in {self.ref}, or were removed: {ids}",
                    hint=f"`featstore show {self.name}` lists why; use valid_rows() or common_rows() to leave them out",
                )


def set_key(dataset: str, name: str) -> str:
    """Where a feature set lives."""
    return f"features/{dataset}/{name}"


def features_log(files: Files, dataset: str, name: str) -> Log[FeatureSetVersion]:
    """The versions of a feature set."""
    return Log(files, set_key(dataset, name), FeatureSetVersion)


def group_key(record: FeatureSetVersion, segment: str) -> str:
    """Where the Zarr group of a segment of a feature set is."""
    return f"{set_key(record.dataset, record.name)}/segments/{segment}"


def plan_key(dataset: str, name: str, segment: str) -> str:
    """Where the plan and the shard records of a segment live (outside its Zarr group, which holds arrays only)."""
    return f"{set_key(dataset, name)}/plans/{segment}"
