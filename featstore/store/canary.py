"""The canary: a few inputs that a feature set keeps, so that anybody can encode them again and compare.

Only the inputs are kept, beside the plan of the segment that holds their rows; their features are those of the rows. So the
canary of a segment goes where the segment goes: `compact` takes over what belongs to rows that are still there, and
`collect_garbage` deletes it with the old segment. An input of a removed row is never given out, and erased as its feature is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from featstore.errors import FeatstoreError
from featstore.store.features import FeatureSet, RowStatus, plan_key
from featstore.store.files import Files
from featstore.store.records import FORMAT, FeatureSetVersion, Plan, VectorSegment, dump, fetch

__all__ = [
    "CanaryInput",
    "canary_key",
    "is_damaged",
    "keep_inputs",
    "nothing_kept",
    "read_canary",
    "take_over_canary",
    "without_canary",
]


class CanaryInput(NamedTuple):
    """An input that the set keeps.

    Attributes:
        row: Row of the set, whose feature was made from it.
        data: Its bytes.
    """

    row: int
    data: bytes


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    row: int  # of the segment's group
    data: str  # base64


class Canary(BaseModel):
    """`canary.json` beside a plan: inputs of some rows of the segment's group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    kind: Literal["canary"] = "canary"
    inputs: tuple[_Input, ...] = ()


def canary_key(record: FeatureSetVersion, segment: str) -> str:
    """Where the canary of a segment is."""
    return f"{plan_key(record.dataset, record.name, segment)}/canary.json"


def without_canary(files: Files, record: FeatureSetVersion) -> list[VectorSegment]:
    """The segments of a set that have no canary yet, not even one without inputs."""
    return [part for part in record.segments if not files.exists(canary_key(record, part.name))]


def keep_inputs(files: Files, record: FeatureSetVersion, part: VectorSegment, inputs: Mapping[int, bytes]) -> None:
    """Keep inputs with a segment; one that has a canary keeps that.

    Args:
        files: The store's files.
        record: A version that lists the segment.
        part: The segment.
        inputs: By row of the set, the bytes that its feature was made from.
    """
    numbered = {row - part.start + part.offset: data for row, data in inputs.items()}
    _publish(files, canary_key(record, part.name), numbered)


def read_canary(files: Files, features: FeatureSet) -> list[CanaryInput]:
    """The inputs that a set keeps, of rows that have a feature and were not removed, in row order.

    Raises:
        CorruptStoreError: a canary is damaged.
    """
    found = []
    status = features.status()
    for part in features.record.segments:
        key = canary_key(features.record, part.name)
        if not files.exists(key):
            continue
        for kept in fetch(files, Canary, key).inputs:
            row = kept.row - part.offset + part.start
            # a segment that a repair lists in several parts has one canary for all of them
            if part.start <= row < part.stop and status[row] == RowStatus.VALID:
                found.append(CanaryInput(row, base64.b64decode(kept.data)))
    return sorted(found)


def take_over_canary(files: Files, features: FeatureSet, rows: NDArray[np.int64], plan: Plan) -> None:
    """Keep with a segment that rewrites a set what the set keeps of the rows that are rewritten.

    Args:
        files: The store's files.
        features: The set as it is.
        rows: Rows of it in the order in which the new segment has them, ascending.
        plan: Of the new segment.
    """
    inputs = {}
    for kept in read_canary(files, features):
        at = int(np.searchsorted(rows, kept.row))
        if at < len(rows) and rows[at] == kept.row:
            inputs[at] = kept.data
    if inputs:
        _publish(files, f"{plan_key(plan.dataset, plan.name, plan.segment)}/canary.json", inputs)


def is_damaged(files: Files, key: str) -> bool:
    """Whether there is a canary under a key that is not as it was published. A segment without one lacks nothing."""
    try:
        if files.exists(key):
            fetch(files, Canary, key)
    except FeatstoreError:
        return True
    return False


def nothing_kept() -> bytes:
    """A canary without inputs, which takes the place of one that is lost."""
    return dump(Canary())


def _publish(files: Files, key: str, inputs: Mapping[int, bytes]) -> None:
    kept = [_Input(row=row, data=base64.b64encode(data).decode()) for row, data in sorted(inputs.items())]
    files.put_new(key, [dump(Canary(inputs=tuple(kept)))])
