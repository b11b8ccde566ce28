"""Objectives by name. A new one is one file with the decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from featstore.errors import UnknownNameError
from featstore_training.objectives.base import Objective

__all__ = ["LossInfo", "find_objective", "losses", "objective"]

_OBJECTIVES: dict[str, type[Objective]] = {}
T = TypeVar("T", bound=type[Objective])


class LossInfo(NamedTuple):
    """One line of `featstore losses`."""

    name: str
    summary: str
    paper: str


def objective(name: str, *, summary: str, paper: str) -> Callable[[T], T]:
    """Register an Objective class under a stable name."""

    def register(cls: T) -> T:
        if name in _OBJECTIVES:
            raise ValueError(f"two objectives are called '{name}'")
        cls.name, cls.summary, cls.paper = name, summary, paper
        _OBJECTIVES[name] = cls
        return cls

    return register


def find_objective(name: str) -> type[Objective]:
    """The objective of that name.

    Raises:
        UnknownNameError: there is none; near names are listed.
    """
    if name not in _OBJECTIVES:
        raise UnknownNameError("loss", name, _OBJECTIVES, hint="`featstore losses` describes them")
    return _OBJECTIVES[name]


def losses() -> list[LossInfo]:
    """All objectives in order of name."""
    return [LossInfo(name, cls.summary, cls.paper) for name, cls in sorted(_OBJECTIVES.items())]
