"""Indexes beside the feature set they were built from: found again, checked, and refused when they no longer fit.

An index lies in `features/DATASET/NAME/indexes/<n>/`: the file that faiss wrote, and a record of what it was built from,
published after it. The highest n wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3
from pydantic import BaseModel, ConfigDict

from featstore.errors import CorruptStoreError, NotFoundError
from featstore.search.tuned import TunedIndex
from featstore.store.features import set_key
from featstore.store.records import dump, fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from featstore.store import FeatureSet, Store

__all__ = ["IndexRecord", "index_numbers", "open_index", "publish", "rows_digest"]

_DATA, _RECORD = "index.faiss", "index.json"


class IndexRecord(BaseModel):
    """What an index is, and what it was built from.

    Attributes:
        format: Version of this record.
        set: `DATASET/NAME@version` of the features.
        uuid: Commit of that version.
        space: Digest of their space.
        rows_digest: blake3 of the dataset rows that are in the index, in its order, hex.
        rows: How many there are.
        width: Components of a row.
        factory: What faiss calls the index.
        candidates: How many rows the index proposes for each one that is asked for.
        k: The k that it was tuned for.
        recall: Share of the exact k nearest rows that it finds.
        queries: Queries that this was measured on.
        bytes: Size of the index.
        digest: blake3 of its file, hex.
        faiss: Version of faiss that wrote it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    set: str
    uuid: str
    space: str
    rows_digest: str
    rows: int
    width: int
    factory: str
    candidates: int
    k: int
    recall: float
    queries: int
    bytes: int
    digest: str
    faiss: str


def open_index(store: Store, features: FeatureSet) -> tuple[IndexRecord, TunedIndex] | None:
    """The newest index of a feature set, read and checked; None when none was ever built.

    Raises:
        NotFoundError: The index was built from another version or from other rows than the set has now.
        CorruptStoreError: Its bytes changed.
    """
    numbers = index_numbers(store, features)
    if not numbers:
        return None
    rebuild = f"featstore index build {features.name}"
    key = _folder(features, numbers[-1])
    record = fetch(store.files, IndexRecord, f"{key}/{_RECORD}")
    if record.uuid != features.record.uuid:
        raise NotFoundError(
            f"the index of {features.name} was built from {record.set}, not from {features.ref}",
            hint=f"{rebuild}; or search without it: --exact",
        )
    if record.rows_digest != rows_digest(features.valid_rows()):
        raise NotFoundError(
            f"rows of {features.ref} were removed or added since its index was built",
            hint=f"{rebuild}; or search without it: --exact",
        )
    import faiss

    data = store.files.view(f"{key}/{_DATA}")
    if len(data) != record.bytes or blake3(data).hexdigest() != record.digest:
        raise CorruptStoreError(
            f"{store.files.where(f'{key}/{_DATA}')} is not the index that was written",
            hint=f"{rebuild}; or search without it: --exact",
        )
    index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    return record, TunedIndex(index, record.factory, record.candidates)


def publish(store: Store, features: FeatureSet, data: Iterable[bytes], record: IndexRecord) -> None:
    """Publish an index as the newest one of its set; older ones are taken away."""
    older = index_numbers(store, features)
    number = older[-1] + 1 if older else 1
    key = _folder(features, number)
    store.files.put_new(f"{key}/{_DATA}", data)
    store.files.put_new(f"{key}/{_RECORD}", [dump(record)])
    store.files.delete(f"{_folder(features, old)}/{name}" for old in older for name in (_RECORD, _DATA))


def index_numbers(store: Store, features: FeatureSet) -> list[int]:
    """Numbers of the complete indexes of a set, ascending."""
    names = store.files.names(f"{set_key(features.record.dataset, features.record.name)}/indexes")
    return sorted(
        int(name)
        for name in names
        if name.isdecimal() and store.files.exists(f"{_folder(features, int(name))}/{_RECORD}")
    )


def rows_digest(rows: NDArray[np.int64]) -> str:
    """What names the rows of an index, hex."""
    return blake3(np.ascontiguousarray(rows, "<i8").tobytes()).hexdigest()


def _folder(features: FeatureSet, number: int) -> str:
    return f"{set_key(features.record.dataset, features.record.name)}/indexes/{number}"
