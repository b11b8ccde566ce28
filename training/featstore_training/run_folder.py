"""What a run folder already holds, judged against what is asked for: finished, to be continued, or taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featstore.encoders.uris import ENCODER_FILE
from featstore.errors import AlreadyExistsError
from featstore.maps import UNCERTAINTY
from featstore.maps.folder import WEIGHTS
from featstore.nested import flatten
from featstore.runs import CARD, RunCard, read_card
from featstore_training.checkpoint import RESUME, read_header
from featstore_training.metrics_log import METRICS
from featstore_training.old_head import CLASSIFIER

__all__ = ["finished_card", "is_unfinished"]

BRIDGE = "bridge"
OURS = {CARD, RESUME, METRICS, CLASSIFIER, BRIDGE, UNCERTAINTY, WEIGHTS, ENCODER_FILE}


def finished_card(folder: Path, request: dict[str, Any]) -> RunCard | None:
    """The card if the folder holds this very run, finished; None if it holds no card.

    Args:
        folder: The run folder.
        request: Config and inputs of the run asked for, as JSON.

    Raises:
        AlreadyExistsError: it holds another run; the differences are listed.
        CorruptStoreError, NotFoundError: its files do not match its card.
    """
    if not (folder / CARD).is_file():
        return None
    card = read_card(folder)
    held = {name: card.training.get(name, {}) for name in request}
    _require_same(folder, held, request, state="holds a finished run")
    return card


def is_unfinished(folder: Path, request: dict[str, Any]) -> bool:
    """Whether the folder holds a checkpoint of this very run.

    Raises:
        AlreadyExistsError: the folder holds a checkpoint of another run, or files that no run wrote.
        CorruptStoreError: the checkpoint cannot be read.
    """
    header = read_header(folder)
    if header is not None:
        _require_same(folder, header["request"], request, state="holds an unfinished run")
        return True
    if folder.exists():
        foreign = sorted(p.name for p in folder.iterdir() if p.name not in OURS and not p.name.startswith("."))
        if foreign:
            raise AlreadyExistsError(
                f"{folder} holds other files: {', '.join(foreign[:5])}", hint="give a new folder to --out"
            )
    return False


def _require_same(folder: Path, held: dict[str, Any], asked: dict[str, Any], *, state: str) -> None:
    left, right = flatten(held), flatten(asked)
    names = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    if names:
        lines = "".join(f"\n  {name}: {left.get(name)} (there) · {right.get(name)} (asked for)" for name in names)
        raise AlreadyExistsError(
            f"{folder} {state} that differs from the one asked for:{lines}", hint="give a new folder to --out"
        )
