"""Objectives by name. A new one is one file with the decorator."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from featstore.errors import UnknownNameError, UsageError
from featstore.strict import Strict
from featstore_training.objectives.base import Objective

if TYPE_CHECKING:
    from featstore_training.adapters.base import Adapter

__all__ = ["LossInfo", "find_objective", "loss_info", "losses", "method_info", "objective", "objective_params"]

_OBJECTIVES: dict[str, type[Objective]] = {}
T = TypeVar("T", bound=type[Objective])


class LossInfo(NamedTuple):
    """One line of `featstore losses`.

    Attributes:
        name: What `--loss` takes.
        summary: One line.
        paper: Where it comes from.
        needs: Cached columns it reads, sorted.
        forms: Named settings, used as `--loss NAME:FORM`.
        params: Its settings with their defaults.
        equation: What it minimises, as text.
        meaning: What each setting is.
    """

    name: str
    summary: str
    paper: str
    needs: tuple[str, ...]
    forms: dict[str, dict[str, Any]]
    params: dict[str, Any]
    equation: str
    meaning: dict[str, str]


def objective(
    name: str, *, summary: str, paper: str, forms: Mapping[str, Mapping[str, Any]] | None = None
) -> Callable[[T], T]:
    """Register an Objective class under a stable name.

    Args:
        name: What `--loss` takes.
        summary: One line.
        paper: Where the method comes from.
        forms: Settings that have a name of their own, used as `--loss NAME:FORM`.
    """

    def register(cls: T) -> T:
        if name in _OBJECTIVES:
            raise ValueError(f"two objectives are called '{name}'")
        cls.name, cls.summary, cls.paper, cls.forms = name, summary, paper, forms or {}
        _OBJECTIVES[name] = cls
        return cls

    return register


def find_objective(name: str) -> type[Objective]:
    """The objective of that name, or of the part before the colon of `NAME:FORM`.

    Raises:
        UnknownNameError: there is none, or it has no such form; near names are listed.
    """
    base, _, form = name.partition(":")
    if base not in _OBJECTIVES:
        raise UnknownNameError("loss", base, _OBJECTIVES, hint="`featstore losses` describes them")
    forms = _OBJECTIVES[base].forms
    if form and form not in forms:
        raise UnknownNameError(f"form of loss '{base}'", form, forms, hint="`featstore losses` describes them")
    return _OBJECTIVES[base]


def objective_params(name: str, params: Mapping[str, Any]) -> Strict:
    """Checked settings of an objective: those of the form in its name, and `params`.

    Raises:
        UnknownNameError: no such objective or form.
        UsageError: an unknown setting, a wrong value, or one that contradicts the form.
    """
    method = find_objective(name)
    form = method.forms.get(name.partition(":")[2], {})
    for key, value in params.items():
        if key in form and form[key] != value:
            raise UsageError(
                f"loss '{name}' means {key}={form[key]}, not {value}", hint=f"--loss {method.name} --set params.{key}=…"
            )
    return method.Params(**{**form, **params})


def losses() -> list[LossInfo]:
    """All objectives in order of name."""
    return [method_info(cls) for _, cls in sorted(_OBJECTIVES.items())]


def loss_info(name: str) -> LossInfo:
    """One of them.

    Raises:
        UnknownNameError: there is none; near names are listed.
    """
    return method_info(find_objective(name))


def method_info(cls: type[Objective | Adapter]) -> LossInfo:
    """What a class says of itself."""
    return LossInfo(
        cls.name,
        cls.summary,
        cls.paper,
        tuple(sorted(cls.needs)),
        {form: dict(values) for form, values in cls.forms.items()},
        cls.Params().model_dump(mode="json"),
        inspect.cleandoc(cls.__doc__ or ""),
        _attributes(cls.Params),
    )


def _attributes(settings: type[Strict]) -> dict[str, str]:
    """What the docstrings of a settings model and its bases say of each setting."""
    found: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        _, _, listed = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        for entry in re.split(r"\n(?=    \w)", listed):
            name, colon, text = entry.strip().partition(": ")
            if colon and name in settings.model_fields:
                found[name] = " ".join(text.split())
    return {name: found.get(name, "") for name in settings.model_fields}
