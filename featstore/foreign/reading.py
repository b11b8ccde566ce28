"""What a library says about a file that it cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featstore.errors import BadInputError, FeatstoreError

__all__ = ["reading"]


@contextmanager
def reading(path: Path | str, what: str = "") -> Iterator[None]:
    """Tell what a library says about a file that it cannot read as a BadInputError."""
    try:
        yield
    except FeatstoreError:
        raise
    except Exception as error:  # decoders raise anything for damaged files, numpy even tokenize.TokenError
        said = str(error) or type(error).__name__
        raise BadInputError(
            f"{f'{what} in ' if what else ''}{path} cannot be read: {said}",
            hint="it is damaged or of another type than its name says; write or copy it again",
        ) from error
