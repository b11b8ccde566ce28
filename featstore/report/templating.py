"""Templates of pages: everything from outside is escaped, and a name that nobody gave is an error."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["template"]


@cache
def template(name: str) -> Any:
    """A template of the package by the name of its file."""
    environment = Environment(
        loader=PackageLoader("featstore.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
