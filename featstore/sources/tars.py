"""Images in tar files: webdataset shards (`key.jpg`, `key.cls`, `key.json`), or a folder of images that was packed.

https://github.com/webdataset/webdataset describes the convention: files with the same path up to the first dot of their
name are one sample, and stand one after another.
"""

from __future__ import annotations

import json
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import BinaryIO

from featstore.errors import BadInputError, NotFoundError
from featstore.sources.files import FileSystem, FoundFile, joined
from featstore.sources.image_folder import MAX_FILE_BYTES, is_image
from featstore.sources.source import NO_COLUMNS, NOWHERE, ColumnValue, Item, Place, Skipped
from featstore.sources.values import plain_value

__all__ = ["TAR_ENDINGS", "TarImages", "folder_of_tars"]

# the compressed ones are refused with the command that unpacks them
_UNPACK = {
    ".tar.gz": "gunzip",
    ".tgz": "gunzip",
    ".tar.zst": "zstd -d --rm",
    ".tar.xz": "unxz",
    ".tar.bz2": "bunzip2",
}
TAR_ENDINGS = (".tar", *_UNPACK)

_BLOCK = 512
_MAX_SIDECAR = 1 << 20
_SIDECARS = frozenset({"cls", "json", "txt"})


@dataclass(frozen=True)
class TarImages:
    """Images in uncompressed tar files.

    The id is the member's path. The label is the sample's `.cls`, else `label` of its `.json`, else the first folder of the
    path; other names and numbers at the top of the `.json` become columns.

    Attributes:
        pattern: What the user gave: one file, or a pattern of several.
        folder: Where the files are.
        names: The files, in order.
        label: Key of the `.json` that holds the class.
        prefix: Whether ids begin with the name of their file, for sets whose files repeat the same keys.
        files: How they are reached.
    """

    pattern: str
    folder: str
    names: tuple[str, ...]
    label: str = "label"
    prefix: bool = False
    files: FileSystem = field(default_factory=FileSystem)

    @property
    def root(self) -> str:
        """The pattern."""
        return self.pattern

    @classmethod
    def open(cls, pattern: str, *, label: str = "label", prefix: bool = False) -> TarImages:
        """The images of the tar files that a pattern names.

        Raises:
            NotFoundError: there is none.
        """
        found = FileSystem().find(pattern)
        folder = found[0].location.removesuffix(found[0].name)
        return cls(pattern, folder, tuple(file.name for file in found), label, prefix)

    def rows(self, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        """The images in the order in which they stand in the files.

        Raises:
            BadInputError: no image is there, or a file is no uncompressed tar.
        """
        some = False
        for name in self.names:
            found = self.files.stat(joined(self.folder, name))
            for _, members in groupby(self._members(found, on_skip), key=_sample_key):
                for item in self._sample(found, list(members), on_skip):
                    some = True
                    yield item
        if not some:
            raise BadInputError(
                f"no images in {self.pattern}", hint="members need names like 0001.jpg or class/0001.png"
            )

    def read(self, id_: str, place: Place = NOWHERE, /) -> bytes:
        """The bytes of one image.

        Raises:
            BadInputError: the image does not lie at this place any more.
        """
        if place.file not in self.names:
            raise BadInputError(f"{id_} lies in '{place.file}', which is not among {self.pattern}")
        stream = self.files.open(joined(self.folder, place.file))
        stream.seek(place.position - _BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(stream.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise BadInputError(f"{id_} is not where it was in {place.file}: the file changed") from error
        # long names stand in a block of their own before this one, which then has only a part
        if not header.isreg() or header.size > MAX_FILE_BYTES or not _agree(header.name, id_):
            raise BadInputError(f"{id_} is not where it was in {place.file}: {header.name!a} is there now")
        data = stream.read(header.size)
        if len(data) < header.size:
            raise BadInputError(f"{place.file} ends in the middle of {id_}")
        return data

    def _members(self, file: FoundFile, on_skip: Callable[[Skipped], None]) -> Iterator[tarfile.TarInfo]:
        """Regular members with sensible names, renamed to Unicode form NFC without a leading `./`."""
        stream = self.files.open(file.location)
        stream.seek(0)
        begun = False
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep all
                    begun = True
                    if not member.isdir():
                        reason = _unusable(member)
                        if reason:
                            on_skip(Skipped(f"{file.name}: {member.name!a}", reason))
                        elif not member.name.rpartition("/")[2].startswith("."):
                            member.name = unicodedata.normalize("NFC", member.name.removeprefix("./"))
                            yield member
        except tarfile.TarError as error:
            if begun:
                on_skip(Skipped(file.name, f"the rest of the file cannot be read: {error}"))
                return
            ending = next((known for known in _UNPACK if file.name.lower().endswith(known)), ".tar.gz")
            raise BadInputError(
                f"{file.location} is no uncompressed tar file: {error}",
                hint="every image is found by its place in the file, which a compressed one does not allow, and images hardly "
                f"shrink: `{_UNPACK[ending]} {file.name}`",
            ) from error

    def _sample(
        self, file: FoundFile, members: list[tarfile.TarInfo], on_skip: Callable[[Skipped], None]
    ) -> Iterator[Item]:
        images = [member for member in members if is_image(member.name)]
        if not images:
            return
        label, columns = self._beside(file, members, on_skip)
        for member in images:
            own = label if label is not None or "/" not in member.name else member.name.split("/", 1)[0]
            id_ = f"{file.name.removesuffix('.tar')}/{member.name}" if self.prefix else member.name
            mtime = int(member.mtime) * 1_000_000_000
            yield Item(id_, own, member.size, mtime, Place(file.name, member.offset_data), columns)

    def _beside(
        self, file: FoundFile, members: list[tarfile.TarInfo], on_skip: Callable[[Skipped], None]
    ) -> tuple[str | None, Mapping[str, ColumnValue]]:
        """Label and columns from what stands beside an image."""
        found = {_extension(member): member for member in members if _extension(member) in _SIDECARS}
        stream = self.files.open(file.location)
        here = stream.tell()
        label: ColumnValue = None
        columns: dict[str, ColumnValue] = {}
        try:
            if "json" in found:
                parsed = json.loads(_content(stream, found["json"]))
                columns = {key: plain_value(value) for key, value in parsed.items() if _is_plain(value)}
                label = columns.pop(self.label, None)
            if "cls" in found:
                label = _content(stream, found["cls"]).decode().strip()
        except (ValueError, AttributeError, RecursionError) as error:
            on_skip(Skipped(f"{file.name}: {_sample_key(members[0])}", f"its label or columns cannot be read: {error}"))
        stream.seek(here)
        return None if label is None else str(label), columns or NO_COLUMNS


def _sample_key(member: tarfile.TarInfo) -> str:
    folder, slash, name = member.name.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _extension(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2].partition(".")[2]


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _content(stream: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > _MAX_SIDECAR:
        raise ValueError(f"{member.name} has {member.size:,} bytes")
    stream.seek(member.offset_data)
    return stream.read(member.size)


def _unusable(member: tarfile.TarInfo) -> str | None:
    """Why a member is not read; None if it can be."""
    if not member.isreg():
        return "not a regular file"
    if member.size > MAX_FILE_BYTES:
        return f"{member.size:,} bytes"
    parts = member.name.removeprefix("./").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in member.name:
        return "the name is no plain path"
    try:
        member.name.encode()
    except UnicodeEncodeError:
        return "the name is not valid UTF-8"
    return None


def _agree(stored: str, id_: str) -> bool:
    """Whether a header's name, perhaps cut or in another Unicode form, can be that of an id."""
    name = stored.removeprefix("./")
    if not name.isascii() or len(name) >= 100:
        return True
    return id_.endswith(name)


def folder_of_tars(folder: str) -> str | None:
    """The pattern of a folder that holds tar files and no images; None for other folders."""
    try:
        found = FileSystem().find(joined(folder, "*"))
    except NotFoundError:
        return None
    names = [file.name for file in found]
    if any(is_image(name) for name in names):
        return None
    ending = next((known for known in TAR_ENDINGS if any(name.endswith(known) for name in names)), None)
    return ending and joined(folder, f"*{ending}")
