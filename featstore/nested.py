"""Nested settings as one level, to compare two of them field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flatten"]


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`; lists stay values."""
    flat: dict[str, Any] = {}
    for key, part in value.items():
        if isinstance(part, dict):
            flat.update(flatten(part, f"{prefix}{key}."))
        else:
            flat[prefix + key] = part
    return flat
