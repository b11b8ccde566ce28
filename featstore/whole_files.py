"""Files that appear whole or not at all, for what may be replaced (run folders, reports); a store's files never are."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, replacing an older one atomically and durably. A crash leaves the older one as it was.

    Args:
        path: The file; its folder exists.
        data: All of its bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
