"""A store's files in a folder of this machine or of a network file system."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import mmap
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from featstore.errors import FeatstoreError, NotFoundError, UsageError
from featstore.store.files import TEMPORARY, FileInfo

__all__ = ["LocalFiles", "unreadable", "unwritable"]

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
# tries to write into a folder that a garbage collection keeps taking away while it is empty
_TRIES = 16
# what a file system without hard links answers to link(2)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class LocalFiles:
    """A folder addressed by '/'-separated keys; see `Files`."""

    local = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalFiles) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.root)

    def path(self, key: str) -> Path:
        """Where a key lives on this machine."""
        return self.root / key

    def where(self, key: str) -> str:
        """The path of a key."""
        return str(self.path(key))

    def exists(self, key: str) -> bool:
        """Whether something was published under the key."""
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """Bytes published under the key, None if nothing was."""
        try:
            found = self.path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(error, self.path(key)) from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def get(self, key: str) -> bytes:
        """The bytes published under the key."""
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{self.path(key)} does not exist") from None
        except OSError as error:
            raise unreadable(error, self.path(key)) from error

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Some [start, stop) of the bytes under the key."""
        view = self.view(key)
        return [bytes(view[start:stop]) for start, stop in ranges]

    def view(self, key: str) -> memoryview:
        """A private memory map of the file: writable, so torch takes it without a warning; nothing written reaches the file."""
        path = self.path(key)
        try:
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                # an empty file cannot be mapped
                return memoryview(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY) if size else bytearray())
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{path} does not exist") from None
        except OSError as error:
            raise unreadable(error, path) from error

    def names(self, prefix: str) -> list[str]:
        """Names directly under a prefix, sorted."""
        try:
            return sorted(name for name in os.listdir(self.path(prefix)) if not name.startswith("."))  # noqa: PTH208 - names only, no Path objects
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise unreadable(error, self.path(prefix)) from error

    def walk(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every published file under a prefix."""
        return self._walk(prefix, unpublished=False)

    def leftovers(self) -> Iterator[FileInfo]:
        """Temporary files, of writers at work or dead."""
        return self._walk("", unpublished=True)

    def put_new(self, key: str, pieces: Iterable[bytes | memoryview]) -> bool:
        """Publish the joined pieces under the key, unless something is there already.

        The bytes are on disk before the name exists (write, fsync, hard link, fsync of the folder).
        """
        path = self.path(key)
        temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            published = not path.exists() and _write_new(temporary, path, pieces)
            # also where another writer was first: it may have died before its name was safe, and we build on it
            _sync_folder(path.parent)
        except OSError as error:
            raise unwritable(error, path) from error
        return published

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a file; a reader sees the old one or the new one."""
        path = self.path(key)
        temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            with _removed_after(temporary), _opened_new(temporary) as stream:
                _write_all(stream.fileno(), data)
                os.fsync(stream.fileno())
                temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise unwritable(error, path) from error

    def delete(self, keys: Iterable[str]) -> None:
        """Take files away, and the folders that become empty."""
        folders = set()
        for key in keys:
            path = self.path(key)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(error, path) from error
            folders.add(path.parent)
        for folder in folders:
            self._remove_empty(folder)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.root and folder.is_relative_to(self.root):
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # something is still in it
                return
            folder = folder.parent

    def _walk(self, prefix: str, *, unpublished: bool) -> Iterator[FileInfo]:
        for folder, _, files in os.walk(self.path(prefix), onerror=_unlisted):
            for name in files:
                if name.startswith(TEMPORARY) != unpublished or (name.startswith(".") and not unpublished):
                    continue
                path = Path(folder, name)
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue  # published or taken away meanwhile
                except OSError as error:
                    raise unreadable(error, path) from error
                yield FileInfo(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)


def _write_new(temporary: Path, path: Path, pieces: Iterable[bytes | memoryview]) -> bool:
    """Bring the pieces to disk under a temporary name, then give them their own, if nothing has that yet."""
    with _removed_after(temporary):
        with _opened_new(temporary) as stream:
            for piece in pieces:
                _write_all(stream.fileno(), piece)
            os.fsync(stream.fileno())
        return _publish(temporary, path)


@contextlib.contextmanager
def _removed_after(temporary: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def _opened_new(path: Path) -> io.FileIO:
    """A new file, in a folder that is made if it is not there."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            _make_folder(path.parent)
            return path.open("xb", buffering=0)
    return path.open("xb", buffering=0)


def _publish(temporary: Path, path: Path) -> bool:
    """Give a finished file its name, if nothing has that name yet."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # over NFS the answer to a link that was made can get lost, and its retry then finds its own link
        return temporary.stat().st_nlink > 1
    except OSError as error:
        # EPERM also comes from folders that may not be written; then the rename fails the same way
        if error.errno not in _NO_LINKS:
            raise
        return _rename_new(temporary, path)
    return True


def _rename_new(temporary: Path, path: Path) -> bool:
    """Rename unless the target exists, for file systems without hard links (renameat2 with RENAME_NOREPLACE)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "neither hard links nor renameat2")
    if rename(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    raise OSError(errno.ENOSYS if code == errno.EINVAL else code, os.strerror(code))


def _write_all(descriptor: int, piece: bytes | memoryview) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; others may be making the same ones."""
    try:
        if stat.S_ISDIR(folder.stat().st_mode):
            return
        raise FeatstoreError(f"{folder} is a file where the store needs a folder", hint="move it out of the store")
    except (FileNotFoundError, NotADirectoryError):
        _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlisted(error: OSError) -> None:
    """What `os.walk` cannot list is an error, not an empty folder; unless it is gone."""
    if not isinstance(error, FileNotFoundError):
        raise unreadable(error, error.filename) from error


def unwritable(error: OSError, path: str | os.PathLike[str]) -> FeatstoreError:
    """The error for a place that did not take a file."""
    folder = Path(path).parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FeatstoreError(
            f"no space left while writing {path}",
            hint="free some space and run the same command again; everything committed before is intact",
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _too_many_open(path)
    if error.errno in _NO_LINKS and folder.is_dir() and os.access(folder, os.W_OK):
        return UsageError(
            f"the file system of {folder} can neither link nor rename without replacing, which create-only "
            "publishing needs",
            hint="keep the store on a local disk, NFS or an object store, and export copies elsewhere",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "the store can be read from here, but not written; check its permissions and how the disk is mounted"
    else:
        hint = "check the disk; then run the same command again; everything committed before is intact"
    return FeatstoreError(f"cannot write {path}: {error.strerror}", hint=hint)


def unreadable(error: OSError, path: str | os.PathLike[str]) -> FeatstoreError:
    """The error for a file that is there and cannot be read."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _too_many_open(path)
    return FeatstoreError(f"cannot read {path}: {error.strerror}", hint="check the disk and the permissions")


def _too_many_open(path: str | os.PathLike[str]) -> FeatstoreError:
    return FeatstoreError(
        f"too many files are open to use {path}",
        hint="raise the limit (ulimit -n 4096) or keep fewer blocks at once",
    )
