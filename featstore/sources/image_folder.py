"""A folder of images: `class/name.ext`, or all of them flat and unlabelled."""

from __future__ import annotations

import io
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import BadInputError, NotFoundError
from featstore.sources.source import NOWHERE, Item, Place, Skipped

__all__ = ["EXTENSIONS", "MAX_FILE_BYTES", "ImageFolder", "is_image"]

EXTENSIONS = frozenset({
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})  # fmt: skip
MAX_FILE_BYTES = 1 << 30  # a larger file is no image of a gallery, and would be read into memory whole


@dataclass(frozen=True)
class ImageFolder:
    """Images below a folder. The label is the first folder of the path; images directly in the root have none.

    Ids are paths relative to the root, `/`-separated, in Unicode form NFC, case kept. Hidden files and folders and files
    with other extensions are no images and are passed over; links are followed as long as they stay below the root.

    Attributes:
        folder: The root, absolute.
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> ImageFolder:
        """The images below a folder.

        Raises:
            NotFoundError: there is no such folder.
        """
        path = Path(folder).expanduser().absolute()
        if not path.is_dir():
            raise NotFoundError(f"{path} is not a folder", hint="give a folder of images: class/name.jpg, or flat")
        return cls(path)

    @property
    def root(self) -> str:
        """The root as text."""
        return str(self.folder)

    def rows(self, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        """The images in the order of their names, folder by folder.

        Raises:
            BadInputError: no image is there, or two names are equal in Unicode form NFC.
        """
        found = skipped = 0

        def skip(entry: Skipped) -> None:
            nonlocal skipped
            skipped += 1
            on_skip(entry)

        real = os.path.realpath(self.folder)
        for item in self._walk(self.folder, "", (_identity(self.folder),), real, skip):
            found += 1
            yield item
        if not found:
            also = f" ({skipped} entries could not be read)" if skipped else ""
            raise BadInputError(
                f"no images below {self.folder}{also}",
                hint=f"known extensions: {' '.join(sorted(EXTENSIONS))}",
            )

    def read(self, id_: str, _: Place = NOWHERE, /) -> bytes:
        """The bytes of one image.

        Raises:
            BadInputError: the id leads out of the folder, or to no regular file of a sensible size.
        """
        parts = id_.split("/")
        if "\0" in id_ or any(part in ("", ".", "..") for part in parts):
            raise BadInputError(f"the id {id_[:80]!r} is not a path below {self.folder}")
        path = self.folder.joinpath(*parts)
        if not os.path.lexists(path):
            path = self._stored_spelling(parts)
        # most paths have no link in them; following all of a path's parts takes several times as long as looking at these few
        if self._has_link(path) and not _is_below(os.path.realpath(path), os.path.realpath(self.folder)):
            raise BadInputError(f"{id_} is a link that leads out of {self.folder}")
        try:
            # O_NONBLOCK: opening a FIFO that took the file's place must not wait for a writer
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with io.FileIO(descriptor) as stream:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise BadInputError(f"{id_} is not a regular file")
                if found.st_size > MAX_FILE_BYTES:
                    raise BadInputError(f"{id_} has {found.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
                return stream.readall()
        except OSError as error:
            raise BadInputError(f"{id_} cannot be read: {error.strerror}") from error

    def _has_link(self, path: Path) -> bool:
        """Whether a part of a path below the folder is a link; the folder itself may be one."""
        depth = len(path.parts) - len(self.folder.parts)
        return path.is_symlink() or any(above.is_symlink() for above in path.parents[: depth - 1])

    def _walk(
        self,
        folder: Path,
        prefix: str,
        above: tuple[tuple[int, int], ...],
        real_root: str,
        skip: Callable[[Skipped], None],
    ) -> Iterator[Item]:
        """Images of one folder and those below it; `above` are the folders on the way, so that a loop is noticed."""
        for name, entry in self._entries(folder, prefix, skip):
            path = prefix + name
            try:
                link = entry.is_symlink()
                if link and not _is_below(os.path.realpath(entry.path), real_root):
                    skip(Skipped(path, "a link that leads out of the folder"))
                    continue
                info = entry.stat()
            except OSError as error:
                skip(Skipped(path, f"cannot be read: {error.strerror}"))
                continue
            if stat.S_ISDIR(info.st_mode):
                if (info.st_dev, info.st_ino) in above:
                    skip(Skipped(path, "a link to a folder above it"))
                    continue
                below = (*above, (info.st_dev, info.st_ino))
                yield from self._walk(Path(entry.path), f"{path}/", below, real_root, skip)
            elif not is_image(name):
                continue
            elif stat.S_ISREG(info.st_mode):
                label = path.split("/", 1)[0] if "/" in path else None
                yield Item(path, label, info.st_size, info.st_mtime_ns)
            else:
                skip(Skipped(path, "not a regular file"))

    def _entries(
        self, folder: Path, prefix: str, skip: Callable[[Skipped], None]
    ) -> list[tuple[str, os.DirEntry[str]]]:
        """What may be an image or hold some, as (name in NFC, entry) in the order of the names."""
        found: dict[str, os.DirEntry[str]] = {}
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            skip(Skipped(prefix.rstrip("/") or str(folder), f"cannot be listed: {error.strerror}"))
            return []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                skip(Skipped(ascii(prefix + entry.name), "the name is not valid UTF-8"))
                continue
            name = unicodedata.normalize("NFC", entry.name)
            if name in found and (is_image(name) or entry.is_dir()):
                raise BadInputError(
                    f"{prefix + found[name].name!a} and {prefix + entry.name!a} in {self.folder} "
                    "are the same name in Unicode form NFC",
                    hint="rename one of them",
                )
            found[name] = entry
        return sorted(found.items())

    def _stored_spelling(self, parts: list[str]) -> Path:
        """The path whose names become `parts` in NFC (some file systems and archives keep decomposed names)."""
        path = self.folder
        for part in parts:
            try:
                names = os.listdir(path)  # noqa: PTH208 - names only, no Path objects
            except OSError as error:
                raise BadInputError(f"{'/'.join(parts)} cannot be read: {error.strerror}") from error
            match = next((name for name in names if unicodedata.normalize("NFC", name) == part), None)
            if match is None:
                raise BadInputError(f"{'/'.join(parts)} is not in {self.folder} any more")
            path /= match
        return path


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122 - called for every file, Path is 10× slower


def _identity(folder: Path) -> tuple[int, int]:
    info = folder.stat()
    return info.st_dev, info.st_ino


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
