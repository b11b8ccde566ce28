"""Before a store is made: does its place keep the promise that everything rests on?"""

from __future__ import annotations

import secrets

from featstore.errors import UsageError
from featstore.store.files import Files

__all__ = ["PROBE", "probe_create_only"]

PROBE = "probe-"  # keys that it tries begin so


def probe_create_only(files: Files) -> None:
    """Try whether a second create-only write under one name is refused, as it must be for commits to be safe.

    Raises:
        UsageError: the place overwrites, or does not know create-only writes.
    """
    key = f"{PROBE}{secrets.token_hex(8)}"
    try:
        first, second = files.put_new(key, [b"first"]), files.put_new(key, [b"second"])
        kept = files.get(key)
    finally:
        files.delete([key])
    if not first or second or kept != b"first":
        raise UsageError(
            f"{files.location} lets a second writer replace what the first one wrote, so commits could be lost",
            hint="use a bucket whose server honours If-None-Match (AWS S3, recent MinIO, R2, GCS, Azure), or a local disk",
        )
