"""Writing a report: the format follows the file's name, and the file appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featstore.errors import NotFoundError, UsageError
from featstore.report.markdown import to_markdown
from featstore.report.page import to_html
from featstore.whole_files import write_whole

if TYPE_CHECKING:
    from featstore.evaluate import EvalResult
    from featstore.store import Store

__all__ = ["check_destination", "write_report"]

_FORMATS = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}


def check_destination(path: Path) -> str:
    """The format that a file name means: html, markdown or json. Ask before evaluating, to fail early.

    Raises:
        UsageError: It has another ending, or is a folder.
        NotFoundError: Its folder does not exist.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"{path}: a report is written as .html, .md or .json", hint="give it one of these endings")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file")
    if not path.parent.is_dir():
        raise NotFoundError(f"the folder {path.parent} does not exist", hint=f"mkdir -p {path.parent}")
    return _FORMATS[path.suffix.lower()]


def write_report(
    result: EvalResult,
    path: Path,
    *,
    store: Store | None = None,
    images: Path | None = None,
    title: str | None = None,
) -> Path:
    """Write a report, replacing an older one atomically.

    Args:
        result: What `featstore.evaluate.evaluate` found. One that was read from JSON gives a page without the parts that
            need the values of single queries.
        path: A file ending in .html (self-contained, opens offline), .md or .json.
        store: Where the sets are: adds example queries, and where the sets come from.
        images: Folder that the ids are files of: adds thumbnails to the examples. The root that the store records is not
            followed, see `featstore.report.thumbnails`.
        title: Heading of the page; says what kind of report it is by default.

    Returns:
        The path.

    Raises:
        UsageError: The path has another ending, or is a folder.
        NotFoundError: Its folder, or the folder of images, does not exist.
    """
    kind = check_destination(path)
    if kind == "html":
        text = to_html(result, store=store, images=images, title=title)
    elif kind == "markdown":
        text = to_markdown(result, title=title)
    else:
        text = result.to_json() + "\n"
    write_whole(path, text.encode(errors="replace"))
    return path
