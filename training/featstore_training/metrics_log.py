"""`metrics.jsonl`: one line for every epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["METRICS", "append", "keep_first"]

METRICS = "metrics.jsonl"


def append(folder: Path, line: dict[str, Any]) -> None:
    """Add one epoch."""
    with (folder / METRICS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def keep_first(folder: Path, epochs: int) -> None:
    """Drop what a stopped run logged after its checkpoint of `epochs` finished epochs."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    path.write_text("".join(lines[:epochs]), encoding="utf-8")
