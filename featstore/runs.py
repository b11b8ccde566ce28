"""Run folders: weights as safetensors beside one `card.json` that says what they are and where they come from.

The card is written last and atomically, so a folder with a readable card is complete; it lists the blake3 digest of every
weight file, because a flipped bit in a safetensors file loads silently otherwise.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featstore.errors import CorruptStoreError, NotFoundError
from featstore.spaces import Space
from featstore.whole_files import write_whole

__all__ = ["CARD", "RunCard", "file_digest", "read_card", "write_card"]

CARD = "card.json"


class RunCard(BaseModel):
    """What a run folder holds.

    Attributes:
        format: Version of this layout; a newer one is refused.
        kind: `map` (feature → feature) or `encoder` (image → feature).
        architecture: `name` of a registered architecture and its `config`; never a code path.
        space: The space of its outputs.
        input_space: The space of its inputs; None for encoders.
        side_spaces: The spaces of what stands behind the inputs: side-information, in this order.
        files: Digest (blake3, hex) of every weight file by name. `write_card` fills in the values.
        training: Config, versions of the inputs, seed, metrics and lineage, as plain JSON.
        created: UTC time, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Literal["map", "encoder"]
    architecture: dict[str, Any]
    space: Space
    input_space: Space | None = None
    side_spaces: tuple[Space, ...] = ()
    files: dict[str, str]
    training: dict[str, Any] = Field(default_factory=dict)
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def file_digest(path: Path) -> str:
    """blake3 of a file's bytes, hex."""
    return blake3().update_mmap(path).hexdigest()


def write_card(folder: Path, card: RunCard) -> RunCard:
    """Write `card.json` atomically into `folder`, with the digests of the files the card names, and return it."""
    filled = card.model_copy(update={"files": {name: file_digest(folder / name) for name in card.files}})
    write_whole(folder / CARD, filled.model_dump_json(indent=2).encode())
    return filled


def read_card(folder: Path) -> RunCard:
    """The card of a run folder, after checking that each weight file still has its digest.

    Raises:
        NotFoundError: no such folder, no card in it, or a listed file is missing.
        CorruptStoreError: the card cannot be read, or a file's bytes changed.
    """
    path = folder / CARD
    if not path.is_file():
        raise NotFoundError(
            f"{folder} is not a run folder: it has no {CARD}",
            hint="give the folder that `featstore train --out` wrote; an interrupted run is finished by the same command",
        )
    try:
        card = RunCard.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise CorruptStoreError(f"{path} cannot be read: {error}", hint="train the run again") from error
    for name, digest in card.files.items():
        file = folder / name
        if Path(name).name != name:
            raise CorruptStoreError(
                f"{path} lists '{name}', which is not a plain file name", hint="train the run again"
            )
        if not file.is_file():
            raise NotFoundError(f"{file} is missing, though {CARD} lists it", hint="copy the whole run folder")
        if file_digest(file) != digest:
            raise CorruptStoreError(
                f"{file} is not the file that {CARD} describes", hint="copy it again or train again"
            )
    return card
