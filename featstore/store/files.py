"""Files of a local store: published create-only and durably, never changed afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from featstore.errors import FeatstoreError, NotFoundError, UsageError

__all__ = ["TEMPORARY", "LocalFiles"]

TEMPORARY = ".tmp-"  # names of unpublished files start so; a crash leaves at most these behind


class LocalFiles:
    """A folder addressed by '/'-separated keys. Cheap to make and to pickle: it holds a path and nothing open."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Where a key lives on this machine."""
        return self.root / key

    def exists(self, key: str) -> bool:
        """Whether something was published under the key."""
        return self.path(key).exists()

    def get(self, key: str) -> bytes:
        """The bytes published under the key.

        Raises:
            NotFoundError: nothing was.
        """
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"{self.path(key)} does not exist") from None

    def names(self, prefix: str) -> list[str]:
        """Names directly under a prefix, sorted; none when there is nothing."""
        try:
            return sorted(name for name in os.listdir(self.path(prefix)) if not name.startswith("."))  # noqa: PTH208 - names only, no Path objects
        except FileNotFoundError:
            return []

    def put_new(self, key: str, pieces: Iterable[bytes | memoryview]) -> bool:
        """Publish the joined pieces under the key, unless something is there already.

        The bytes are on disk before the name exists (write, fsync, hard link, fsync of the folder), so a reader sees the
        whole file or none, and of two writers exactly one gets True.
        """
        path = self.path(key)
        if path.exists():
            return False
        _make_folder(path.parent)
        temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            with temporary.open("xb", buffering=0) as stream:
                for piece in pieces:
                    _write_all(stream.fileno(), piece)
                os.fsync(stream.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        except OSError as error:
            raise _explained(error, path) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(path.parent)
        return True


def _write_all(descriptor: int, piece: bytes | memoryview) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
    except OSError as error:
        raise _explained(error, folder) from error
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path) -> FeatstoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FeatstoreError(
            f"no space left while writing {path}",
            hint="free some space and run the same command again; everything committed before is intact",
        )
    if (
        error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK)
        and path.parent.is_dir()
        and os.access(path.parent, os.W_OK)
    ):
        return UsageError(
            f"the file system of {path.parent} has no hard links, which create-only publishing needs",
            hint="keep the store on a local disk or NFS, and export copies elsewhere",
        )
    return FeatstoreError(f"cannot write {path}: {error.strerror}", hint="check the permissions of the store's folder")
