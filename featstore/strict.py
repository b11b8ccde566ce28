"""Settings that refuse what they do not know, and say what was probably meant."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

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
    known, list_all = list(model.model_fields), False
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            problems.append(f"no '{key}'")
            list_all = True
            if near := difflib.get_close_matches(key, known, n=3, cutoff=0.5):
                hints.append(f"did you mean {' or '.join(near)}?")
        else:
            text = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{key}: {text}" if key else text)
            field = model.model_fields.get(key)
            if field is not None and isinstance(field.default, bool | int | float | str):
                hints.append(f"the default is {key}={field.default}")
    if list_all or not hints:
        hints.append(f"there is: {', '.join(known)}" if known else "it takes no settings")
    return UsageError(f"{model.what}: {'; '.join(problems)}", hint="; ".join(hints))
