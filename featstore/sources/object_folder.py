"""A folder of images in an object store: `s3://bucket/photos` with `class/name.ext` below it, or all of them flat."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from featstore.errors import BadInputError
from featstore.sources.files import FileSystem, joined
from featstore.sources.image_folder import EXTENSIONS, MAX_FILE_BYTES, is_image
from featstore.sources.source import NOWHERE, Item, Place, Skipped

__all__ = ["ObjectFolder"]


@dataclass(frozen=True)
class ObjectFolder:
    """Images below a URL; ids and labels as in `ImageFolder`, in the order of the keys.

    Attributes:
        url: The root, without a slash at its end.
        files: How it is reached.
    """

    url: str
    files: FileSystem = field(default_factory=FileSystem)

    @property
    def root(self) -> str:
        """The URL."""
        return self.url

    def rows(self, on_skip: Callable[[Skipped], None]) -> Iterator[Item]:
        """The images in the order of their keys.

        Raises:
            BadInputError: no image is there.
        """
        found = False
        for file in self.files.walk(self.url):
            parts = file.name.split("/")
            if not is_image(file.name) or any(part.startswith(".") for part in parts):
                continue
            if not _is_plain(parts):
                on_skip(Skipped(file.name, "the key is no plain path in Unicode form NFC"))
                continue
            found = True
            yield Item(file.name, parts[0] if len(parts) > 1 else None, file.size, file.mtime_ns)
        if not found:
            raise BadInputError(f"no images below {self.url}", hint=f"known extensions: {' '.join(sorted(EXTENSIONS))}")

    def read(self, id_: str, _: Place = NOWHERE, /) -> bytes:
        """The bytes of one image.

        Raises:
            BadInputError: the id is no path below the URL, or leads to nothing that can be read.
        """
        if not _is_plain(id_.split("/")):
            raise BadInputError(f"the id {id_[:80]!r} is not a path below {self.url}")
        try:
            return self.files.read(joined(self.url, id_), MAX_FILE_BYTES)
        except BadInputError:
            raise
        except LookupError as error:
            raise BadInputError(f"{id_} is not in {self.url} any more") from error


def _is_plain(parts: list[str]) -> bool:
    return all(
        part not in ("", ".", "..") and "\0" not in part and unicodedata.is_normalized("NFC", part) for part in parts
    )
