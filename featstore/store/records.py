"""The JSON documents of a store: what each one says, checked on the way in and out. All are written once and never changed."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeVar

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featstore.errors import CorruptStoreError, NotFoundError, UsageError
from featstore.spaces import Space
from featstore.store.files import Files

__all__ = [
    "FORMAT",
    "Commit",
    "Damage",
    "DatasetVersion",
    "FeatureSetVersion",
    "IndexPointer",
    "Mixture",
    "Overlay",
    "Plan",
    "Removal",
    "RowFailure",
    "RowSegment",
    "ShardRecord",
    "StoreRecord",
    "TagEntry",
    "VectorSegment",
    "Version",
    "dump",
    "fetch",
    "fetch_all",
    "fetch_if_there",
    "load",
    "utc_now",
]

FORMAT = 1
# versions of mixed sets say this, so that a featstore that would take all their rows for one space refuses them
MIXED_FORMAT = 2
_AT_ONCE = 16  # requests to an object store


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def utc_now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _uuid() -> str:
    return uuid.uuid4().hex


class StoreRecord(_Record):
    """`featstore.json`, the first file of a store."""

    format: int = FORMAT
    kind: Literal["store"] = "store"
    uuid: str = Field(default_factory=_uuid)
    created: str = Field(default_factory=utc_now)


class RowFailure(_Record):
    """A row that has no feature, and why. `stage` is read, decode, preprocess, encode or publish."""

    row: int
    id: str
    stage: str
    error: str


class RowSegment(_Record):
    """Rows [start, stop) of a dataset: ids and columns in one Zarr group."""

    name: str
    start: int
    stop: int
    digest: str


class Overlay(_Record):
    """Columns added later, covering rows [0, rows); a later overlay wins over an earlier one and over the segments."""

    name: str
    rows: int
    columns: tuple[str, ...]
    digest: str


class Removal(_Record):
    """Rows that are no longer there: one array of row numbers in a Zarr group."""

    name: str
    rows: int
    digest: str


class Commit(_Record):
    """What every commit says of itself.

    `layout` counts how often the rows of the dataset were renumbered: row numbers mean the same in all versions of one
    layout, of the dataset and of its feature sets.
    """

    format: int = FORMAT
    name: str
    number: int
    parent: int | None
    uuid: str = Field(default_factory=_uuid)
    created: str = Field(default_factory=utc_now)
    layout: int = 1
    rows: int
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def home(self) -> str:
        """Key below which its versions are."""
        raise NotImplementedError

    def successor(self, number: int, **changes: Any) -> Self:
        """The version that comes after this one: the same but for its identity and what changes."""
        kept = self.model_dump(exclude={"number", "parent", "uuid", "created", *changes})
        return type(self)(**kept, number=number, parent=self.number, **changes)


class DatasetVersion(Commit):
    """One commit of a dataset. `earlier` holds the last version of each earlier layout."""

    kind: Literal["dataset"] = "dataset"
    root: str | None
    segments: tuple[RowSegment, ...]
    overlays: tuple[Overlay, ...] = ()
    removed: tuple[Removal, ...] = ()
    earlier: tuple[int, ...] = ()

    @property
    def home(self) -> str:
        """Key below which its versions are."""
        return f"datasets/{self.name}"


class TagEntry(_Record):
    """One entry of a tag's log: its tag, its number in the log, and the version that the tag names since.

    `note` says why it was moved, and `created` when, where whoever moved it gave a reason.
    """

    tag: str
    number: int
    version: int
    uuid: str = Field(default_factory=_uuid)
    note: str | None = Field(default=None, exclude_if=lambda value: value is None)
    created: str | None = Field(default=None, exclude_if=lambda value: value is None)


class Version(_Record):
    """One line of a history.

    Attributes:
        number: What `@number` means.
        created: UTC, ISO 8601.
        rows: Rows there were.
        tags: Tags that name it now.
        moves: Entries of tags that were moved to it, with a reason, oldest first.
        provenance: What made it.
    """

    number: int
    created: str
    rows: int
    tags: tuple[str, ...]
    moves: tuple[TagEntry, ...] = ()
    provenance: dict[str, Any]


class Plan(_Record):
    """What every worker of one job obeys: rows [start, stop) of a dataset become one segment in shards of `shard_rows`."""

    format: int = FORMAT
    kind: Literal["plan"] = "plan"
    dataset: str
    dataset_version: int
    layout: int = 1
    name: str
    segment: str
    start: int
    stop: int
    space: Space
    source: str = ""
    dtype: Literal["float16", "float32", "float64"]
    shard_rows: int
    chunk_rows: int
    created: str = Field(default_factory=utc_now)


class ShardRecord(_Record):
    """The sidecar whose existence completes a shard. `digests` are blake3 of its three files, hex."""

    shard: int
    rows: int
    valid: int
    digests: dict[str, str]
    failures: tuple[RowFailure, ...] = ()


class VectorSegment(_Record):
    """Rows [start, stop) of a feature set: rows from `offset` on of a Zarr group of `features`, `status` and `input_digest`.

    The group has `group_rows` rows. It is listed in part (offset above 0, or less than its rows) where a repair replaced
    the rest; `offset` is then a multiple of `shard_rows`. `valid` counts the rows listed; `digest` is that of the whole group,
    `indexed` the rows of the whole group that its digest index names.
    """

    name: str
    start: int
    stop: int
    offset: int = 0
    group_rows: int
    shard_rows: int
    chunk_rows: int
    valid: int
    indexed: int = 0
    digest: str

    @property
    def rows(self) -> int:
        """How many rows are listed."""
        return self.stop - self.start

    @property
    def shards(self) -> range:
        """The shards of the group that hold them."""
        return range(self.offset // self.shard_rows, -(-(self.offset + self.rows) // self.shard_rows))

    def shard_span(self, shard: int) -> tuple[int, int]:
        """Dataset rows [start, stop) that a shard of the group holds, as far as they are listed."""
        first = self.start + shard * self.shard_rows - self.offset
        return max(self.start, first), min(self.stop, first + self.shard_rows)


class IndexPointer(_Record):
    """Says that a segment of a feature set has a digest index; the same for every worker that publishes it."""

    format: int = FORMAT
    kind: Literal["index"] = "index"
    dataset: str
    name: str
    segment: str


class Damage(_Record):
    """Rows [start, stop) that a repair replaced: `segment` stays marked damaged there, in this version and those after it."""

    segment: str
    start: int
    stop: int
    replaced_by: str


class Mixture(_Record):
    """Which rows of a set lie in which space, in the middle of a backfill: an array `part` in a Zarr group.

    Attributes:
        parts: The spaces; row r lies in `parts[part[r]]`.
        rows: How many rows with a feature lie in each.
        name: The group, beside the segments.
        digest: Of the group's files.
    """

    parts: tuple[Space, ...]
    rows: tuple[int, ...]
    name: str
    digest: str


class FeatureSetVersion(Commit):
    """One commit of a feature set; `mixture` where its rows lie in several spaces."""

    kind: Literal["features"] = "features"
    dataset: str
    dtype: Literal["float16", "float32", "float64"]
    space: Space
    segments: tuple[VectorSegment, ...]
    damaged: tuple[Damage, ...] = ()
    mixture: Mixture | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def home(self) -> str:
        """Key below which its versions are."""
        return f"features/{self.dataset}/{self.name}"


R = TypeVar("R", bound=BaseModel)


def dump(record: BaseModel) -> bytes:
    """The bytes of a record: JSON whose last member is the blake3 of what the file would be without it."""
    body = record.model_dump_json(indent=1)
    return f'{body[:-2]},\n "checksum": "{blake3(body.encode()).hexdigest()}"\n}}'.encode()


def fetch(files: Files, model: type[R], key: str) -> R:
    """The record published under a key; see `load`.

    Raises:
        NotFoundError: nothing was published there.
    """
    return load(model, files.get(key), where=files.where(key))


def fetch_if_there(files: Files, model: type[R], key: str) -> R | None:
    """The record published under a key; None if nothing is, or not any more."""
    try:
        return fetch(files, model, key)
    except NotFoundError:
        return None


def fetch_all(files: Files, model: type[R], keys: Sequence[str]) -> list[R]:
    """The records published under some keys, in their order; many at once where each waits for a server.

    Raises:
        NotFoundError: nothing was published under one of them.
    """
    if files.local:
        return [fetch(files, model, key) for key in keys]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda key: fetch(files, model, key), keys))


def load(model: type[R], data: bytes, *, where: str) -> R:
    """A record from its bytes.

    Raises:
        UsageError: a newer featstore wrote it.
        CorruptStoreError: it is not such a record, or not the bytes that were written.
    """
    hint = "`featstore repair --from STORE` takes it from a second copy of the store"
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptStoreError(f"{where} is not JSON: {error}", hint=hint) from error
    found = content.get("format", FORMAT) if isinstance(content, dict) else None
    if isinstance(found, int) and found > MIXED_FORMAT:
        raise UsageError(
            f"{where} has format {found}; this featstore reads up to {MIXED_FORMAT}",
            hint="pip install --upgrade featstore",
        )
    checksum = _CHECKSUM.search(data)
    body = data[: checksum.start()] + b"\n}" if checksum else b""
    if checksum is None or blake3(body).hexdigest().encode() != checksum[1]:
        raise CorruptStoreError(f"{where} does not match its checksum", hint=hint)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise CorruptStoreError(f"{where} is damaged: {error.errors()[0]['msg']}", hint=hint) from error


_CHECKSUM = re.compile(rb',\n "checksum": "([0-9a-f]{64})"\n}\Z')
