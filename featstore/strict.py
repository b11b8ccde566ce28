"""Settings that refuse what they do not know, and say what was probably meant."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from featstore.errors import UsageError

__all__ = ["Strict"]


class Strict(BaseModel):
    """Base of every settings model: frozen, and wrong keys or values are a UsageError wherever it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: ClassVar[str] = "the settings"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _usage_error(error, type(self)) from error


def _usage_error(error: ValidationError, model: type[Strict]) -> UsageError:
    problems, hints = [], []
    listed: list[str] = []
    for problem in error.errors():
        parts, owner = _place(model, problem["loc"])
        key, known = ".".join(parts), list(owner.model_fields)
        if problem["type"] == "extra_forbidden":
            problems.append(f"no '{key}'")
            listed = listed or known
            hints += _near(parts[-1], known)
        elif problem["type"] == "union_tag_invalid":
            named = problem["ctx"]
            kinds = [kind.strip("' ") for kind in named["expected_tags"].split(",")]
            problems.append(f"no {key} called '{named['tag']}'")
            listed = listed or kinds
            hints += _near(named["tag"], kinds)
        elif isinstance(inner := problem.get("ctx", {}).get("error"), UsageError):
            problems.append(inner.message)
            hints.append(inner.hint)
        else:
            text = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{key}: {text}" if key else text)
            field = owner.model_fields.get(parts[-1]) if parts else None
            if field is not None and isinstance(field.default, bool | int | float | str | tuple):
                default = list(field.default) if isinstance(field.default, tuple) else field.default
                hints.append(f"the default is {key}={default}")
    if listed or not hints:
        listed = listed or list(model.model_fields)
        hints.append(f"there is: {', '.join(listed)}" if listed else "it takes no settings")
    return UsageError(f"{model.what}: {'; '.join(problems)}", hint="; ".join(hints))


def _near(name: str, known: list[str]) -> list[str]:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return [f"did you mean {' or '.join(near)}?"] if near else []


def _place(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel]]:
    """Where an error is, without the kinds by which pydantic tells unions apart, and in which settings."""
    parts, owner, kinds = [], model, dict[str, type[BaseModel]]()
    for part in map(str, loc):
        if part in kinds:
            owner, kinds = kinds[part], {}
            continue
        if len(inner := set(kinds.values())) == 1:
            owner = inner.pop()
        parts.append(part)
        field = owner.model_fields.get(part)
        kinds = _models(field.annotation) if field is not None else {}
    return parts, owner


def _models(annotation: Any) -> dict[str, type[BaseModel]]:
    """The settings that a field may hold, by the default of their `name`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get("name")
        return {str(field.default) if field is not None else "": annotation}
    return {kind: found for inner in get_args(annotation) for kind, found in _models(inner).items()}
