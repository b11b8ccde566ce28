"""Every error that featstore raises on purpose, as one tree.

    FeatstoreError
    ├── UsageError (ValueError)          an option, a name or an expression that cannot mean anything
    │   └── UnknownNameError             … because nothing has that name; near matches are in the hint
    ├── NotFoundError (LookupError)      a store, dataset, feature set, version or file that is not there
    ├── AlreadyExistsError               a name that is taken
    ├── CorruptStoreError                bytes that contradict their checksum, index or manifest
    ├── ConflictError                    two writers wanted different things under one name
    ├── IncompleteError                  rows asked for that are not valid, a job that has not finished
    ├── SpaceMismatchError (ValueError)  features of two spaces that nobody declared comparable
    ├── AlignmentError (ValueError)      ids or widths that do not match
    ├── BadInputError (ValueError)       a file from outside that cannot be used as it is
    ├── NonFiniteError (ValueError)      NaN, infinity or a value that its dtype cannot hold
    ├── UntrustedError                   something stored asked to be executed
    ├── TrainingError                    a run that cannot go on
    └── MissingExtraError (ImportError)  an optional dependency that is not installed

Each carries what went wrong and where in its message, and the command that helps in `hint`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AlignmentError",
    "AlreadyExistsError",
    "BadInputError",
    "ConflictError",
    "CorruptStoreError",
    "FeatstoreError",
    "IncompleteError",
    "MissingExtraError",
    "NonFiniteError",
    "NotFoundError",
    "SpaceMismatchError",
    "TrainingError",
    "UnknownNameError",
    "UntrustedError",
    "UsageError",
    "as_text",
    "from_text",
    "sample_of",
]


_MANY = 100


class FeatstoreError(Exception):
    """The root. `hint` says what to do next, usually a command; empty when the message already does."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class UsageError(FeatstoreError, ValueError):
    """An option, a name or an expression that cannot mean anything."""


class UnknownNameError(UsageError):
    """Nothing has that name. The hint lists near matches first, then what there is."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        parts = []
        if near:
            parts.append("did you mean " + " or ".join(near) + "?")
        if names and not (near and len(names) > _MANY):  # the first of so many say nothing more
            parts.append(f"there is: {sample_of(names, 12)}")
        if hint:
            parts.append(hint)
        super().__init__(f"no {kind} called '{name}'", hint="; ".join(parts))
        self.name = name


class NotFoundError(FeatstoreError, LookupError):
    """A store, dataset, feature set, version, run or file that is not there."""


class AlreadyExistsError(FeatstoreError):
    """A name that is taken by something else."""


class CorruptStoreError(FeatstoreError):
    """Stored bytes that contradict their checksum, their index or the manifest. Never raised for a user's mistake."""


class ConflictError(FeatstoreError):
    """Two writers wanted different things under one name; nothing was lost, one of them has to choose again."""


class IncompleteError(FeatstoreError):
    """Rows were asked for that are not valid, or a job that has not finished."""


class SpaceMismatchError(FeatstoreError, ValueError):
    """Features of two spaces that nothing declares comparable. The message names the fields that differ."""


class AlignmentError(FeatstoreError, ValueError):
    """Ids, row counts or widths that do not match."""


class BadInputError(FeatstoreError, ValueError):
    """A file from outside that cannot be used as it is."""


class NonFiniteError(FeatstoreError, ValueError):
    """NaN, infinity, or a value that the chosen dtype cannot hold. The message lists the first ids."""


class UntrustedError(FeatstoreError):
    """A store or a run folder asked for code to be executed; featstore never follows such a request."""


class TrainingError(FeatstoreError):
    """A run that cannot go on (no usable rows, a loss that became NaN, a head and a method that do not fit)."""


class MissingExtraError(FeatstoreError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed",
            hint=f"pip install 'featstore[{extra}]'",
        )


def as_text(error: FeatstoreError) -> tuple[str, str, str]:
    """Kind, message and hint, to be sent to another process; some errors have constructors that unpickling cannot call."""
    return type(error).__name__, error.message, error.hint


def from_text(kind: str, message: str, hint: str) -> FeatstoreError:
    """The error that `as_text` described."""
    found = globals().get(kind, FeatstoreError)
    error: FeatstoreError = found.__new__(found)
    FeatstoreError.__init__(error, message, hint=hint)
    return error


def sample_of(items: Iterable[object], limit: int = 5, total: int | None = None) -> str:
    """The first `limit` items joined by commas, and how many more there are; `total` says so where only the first are given."""
    listed = [str(item) for item in items]
    shown = listed[:limit]
    more = (len(listed) if total is None else total) - len(shown)
    return ", ".join(shown) + (f", … ({more:,} more)" if more else "")
