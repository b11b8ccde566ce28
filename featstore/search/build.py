"""Building an index: the kind that fits into memory, tuned until it finds what an exact search finds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featstore.errors import UsageError
from featstore.evaluate.scores import normalise
from featstore.evaluate.vectors import ArrayVectors, PreparedRows, SetVectors
from featstore.progress import SILENT, Progress
from featstore.runs import file_digest
from featstore.search.exact import exact_top_k
from featstore.search.stored import IndexRecord, publish, rows_digest
from featstore.search.tuned import TunedIndex
from featstore.spaces import check_comparable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featstore.store import FeatureSet, Store

__all__ = ["IndexReport", "build_index"]

_FLAT_ROWS = 20_000  # up to here an exact search takes milliseconds
_TRAINING_ROWS = 1 << 16
_QUERIES = 500
_BLOCK = 1 << 16
_PIECE = 8 << 20
_TRIED = (1, 2, 4, 8, 16, 32, 64)


class _Kind(NamedTuple):
    """A kind of index: what faiss calls it, and the bytes it takes."""

    factory: str
    bytes: int


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What building an index did.

    Attributes:
        record: The index.
        seconds: Time spent.
    """

    record: IndexRecord
    seconds: float


def build_index(
    store: Store,
    ref: str,
    *,
    max_memory: int,
    min_recall: float = 0.95,
    k: int = 10,
    query: str | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> IndexReport:
    """Build, tune, measure and store an index of a feature set; an older one is replaced.

    Small sets get a flat index. Others get 4-bit product codes that propose rows (`PQ…x4fs`), which full rows then decide
    between: rows in the index where they fit into `max_memory` (`RFlat`), else those of the store.

    Args:
        store: Where the set is, and where the index goes.
        ref: The set.
        max_memory: Bytes that the index may take when it is searched.
        min_recall: Share of the exact k nearest rows that it has to find, in (0, 1].
        k: What it is tuned for.
        query: A set that searches this one, for realistic queries; by default the set itself, each query without itself.
        seed: Of the samples for training and measuring.
        progress: Listener.

    Raises:
        UsageError: Nothing fits into the memory, or nothing that fits finds enough; the message says what would.
        SpaceMismatchError: The query set lies in another space that nothing declares comparable.
    """
    began = time.monotonic()
    if not 0 < min_recall <= 1:
        raise UsageError(f"a recall of {min_recall:g} cannot be asked for", hint="write for example --min-recall 0.95")
    features = store.features(ref)
    gallery = SetVectors(features, features.valid_rows())
    k = min(k, max(gallery.rows - 1, 1))
    random = np.random.default_rng(seed)
    queries, own = _queries(store, features, gallery, query, random)
    truth = _without_self(exact_top_k(ArrayVectors(queries), gallery, k + 1, progress=progress).rows, own, k)
    fitting = [kind for kind in _kinds(gallery.rows, gallery.width) if kind.bytes <= max_memory]
    if not fitting:
        least = min(kind.bytes for kind in _kinds(gallery.rows, gallery.width))
        raise UsageError(
            f"no index of {gallery.rows:,} rows of width {gallery.width} fits into {max_memory / 2**20:.0f} MiB",
            hint=f"give at least --max-memory {-(-least // 2**20)}M",
        )
    best = 0.0
    for kind in fitting:
        index = _filled(kind.factory, gallery, random, progress)
        for candidates in (1,) if kind.factory == "Flat" else _TRIED:
            tuned = TunedIndex(index, kind.factory, candidates)
            recall = _recall(_without_self(tuned.nearest(queries, gallery, k + 1).rows, own, k), truth)
            best = max(best, recall)
            if recall >= min_recall:
                record = _stored(store, features, tuned, k=k, recall=recall, queries=len(queries))
                return IndexReport(record, time.monotonic() - began)
    raise UsageError(
        f"no index within {max_memory / 2**20:.0f} MiB finds {min_recall:.0%} of the {k} nearest rows; the best {best:.1%}",
        hint="ask for less with --min-recall, or search without an index: featstore search --exact",
    )


def _kinds(rows: int, width: int) -> list[_Kind]:
    """Kinds to try, the preferred one first."""
    flat = _Kind("Flat", 4 * rows * width)
    parts = next((parts for parts in range(width // 2, 1, -1) if width % parts == 0), None)
    if rows <= _FLAT_ROWS or parts is None:
        return [flat]
    codes = rows * -(-parts // 2)
    return [_Kind(f"PQ{parts}x4fs,RFlat", flat.bytes + codes), _Kind(f"PQ{parts}x4fs", codes)]


def _queries(
    store: Store, features: FeatureSet, gallery: SetVectors, query: str | None, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit rows to measure with, and the gallery position that each one is (−1 for none)."""
    if query is None:
        chosen = np.sort(random.choice(gallery.rows, min(_QUERIES, gallery.rows), replace=False))
        source, own = SetVectors(features, features.valid_rows()[chosen]), chosen
    else:
        asking = store.features(query)
        check_comparable(
            asking.space,
            features.space,
            left_set=asking.name,
            right_set=features.name,
            hint="give queries of a space that is declared comparable with the index's",
        )
        rows = asking.valid_rows()
        chosen = np.sort(random.choice(len(rows), min(_QUERIES, len(rows)), replace=False))
        source, own = SetVectors(asking, rows[chosen]), np.full(len(chosen), -1)
    return PreparedRows(source, 0, side="query").block(0, source.rows), own


def _filled(factory: str, gallery: SetVectors, random: np.random.Generator, progress: Progress) -> Any:
    import faiss

    index = faiss.index_factory(gallery.width, factory, faiss.METRIC_INNER_PRODUCT)
    rows = PreparedRows(gallery, 0)
    if not index.is_trained:
        sample = np.sort(random.choice(gallery.rows, min(_TRAINING_ROWS, gallery.rows), replace=False))
        index.train(normalise(gallery.take(sample), what=str(gallery)))
    progress.start(f"building {factory}", gallery.rows, "rows")
    for _, block in rows.blocks(_BLOCK):
        index.add(block)
        progress.advance(len(block))
    return index


def _recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The share of the truly nearest rows that were found."""
    hits = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(found, truth, strict=True))
    return hits / max(int((truth >= 0).sum()), 1)


def _without_self(rows: NDArray[np.int64], own: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The first k of each row after its own position was taken out."""
    order = np.argsort(rows == own[:, None], axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)[:, :k]


def _stored(
    store: Store, features: FeatureSet, tuned: TunedIndex, *, k: int, recall: float, queries: int
) -> IndexRecord:
    import faiss

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        faiss.write_index(tuned.index, str(path))
        record = IndexRecord(
            set=features.ref,
            uuid=features.record.uuid,
            space=features.space.digest,
            rows_digest=rows_digest(features.valid_rows()),
            rows=tuned.index.ntotal,
            width=features.width,
            factory=tuned.factory,
            candidates=tuned.candidates,
            k=k,
            recall=recall,
            queries=queries,
            bytes=path.stat().st_size,
            digest=file_digest(path),
            faiss=faiss.__version__,
        )
        publish(store, features, _pieces(path), record)
    return record


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
