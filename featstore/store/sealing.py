"""Sealing a segment whose shards are all published: its digest index and its metadata, last of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from blake3 import blake3

from featstore.store.digest_index import DIGEST_BYTES, indexed_inputs, publish_index
from featstore.store.features import set_key
from featstore.store.files import Files
from featstore.store.names import is_view
from featstore.store.records import IndexPointer, Plan, ShardRecord, VectorSegment
from featstore.store.zarr_format import array_metadata, encode_chunk, group_metadata

__all__ = ["digest_of", "seal_segment", "segment_key_of", "segment_metadata", "shards_digest"]


def segment_metadata(rows: int, width: int, dtype: np.dtype[Any], chunk_rows: int, shard_rows: int) -> dict[str, bytes]:
    """The `zarr.json` documents of a segment by key below it, the group's last."""
    small = np.dtype("u1")
    return {
        "features/zarr.json": array_metadata((rows, width), dtype, (chunk_rows, width), shard=(shard_rows, width)),
        "input_digest/zarr.json": array_metadata((rows, DIGEST_BYTES), small, (shard_rows, DIGEST_BYTES)),
        "status/zarr.json": array_metadata((rows,), small, (shard_rows,)),
        "zarr.json": group_metadata(),
    }


def shards_digest(records: Sequence[ShardRecord]) -> str:
    """Digest over the digests of all files of a segment's shards, in order."""
    listing = "\n".join(f"{r.shard} {name} {digest}" for r in records for name, digest in sorted(r.digests.items()))
    return blake3(listing.encode()).hexdigest()


def digest_of(pieces: Iterable[bytes | memoryview]) -> str:
    """blake3 of the joined pieces, hex."""
    digest = blake3()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def segment_key_of(plan: Plan) -> str:
    """Key of the group that a plan is of."""
    return f"{set_key(plan.dataset, plan.name)}/segments/{plan.segment}"


def seal_segment(files: Files, plan: Plan, records: Sequence[ShardRecord]) -> VectorSegment:
    """Publish the digest index and the metadata of a planned segment, and describe it for a version.

    Args:
        files: The store's files.
        plan: The plan.
        records: Those of all its shards, in order.
    """
    rows = plan.stop - plan.start
    indexed = _publish_index(files, plan, records)
    documents = segment_metadata(rows, plan.space.width, np.dtype(plan.dtype), plan.chunk_rows, plan.shard_rows)
    for name, document in documents.items():
        files.put_new(f"{segment_key_of(plan)}/{name}", [document])
    return VectorSegment(
        name=plan.segment,
        start=plan.start,
        stop=plan.stop,
        group_rows=rows,
        shard_rows=plan.shard_rows,
        chunk_rows=plan.chunk_rows,
        valid=sum(record.valid for record in records),
        indexed=indexed,
        digest=shards_digest(records),
    )


def _publish_index(files: Files, plan: Plan, records: Sequence[ShardRecord]) -> int:
    """Publish the digest index of the shards, if any input's digest is known; how many rows it names."""
    if is_view(plan.name):
        return 0  # an augmented view is not what encoding its input again would give
    unknown = digest_of(encode_chunk(np.zeros((plan.shard_rows, DIGEST_BYTES), dtype=np.uint8), plan.shard_rows))
    shards = [record.shard for record in records if record.digests["input_digest"] != unknown]
    key = segment_key_of(plan)
    rows, digests = indexed_inputs(files, key, shards, rows=plan.stop - plan.start, shard_rows=plan.shard_rows)
    if len(rows):
        pointer = IndexPointer(dataset=plan.dataset, name=plan.name, segment=plan.segment)
        publish_index(files, key, pointer, plan.space, rows, digests)
    return len(rows)
