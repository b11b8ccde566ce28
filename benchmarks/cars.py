"""The cars data as grounds for comparisons: old on MobileNetV1-0.25 features, new on EfficientNet-Lite1 features."""

from __future__ import annotations

from dataclasses import dataclass

from trunks import SCENARIOS, TESTS, WIDTH, Trunks

__all__ = ["MODELS", "NEW", "OLD", "SCENARIOS", "TESTS", "WIDTH", "Cars"]

OLD, MIDDLE, NEW = MODELS = ("v1_025_128", "v1_100_128", "lite1_192")


@dataclass(frozen=True)
class Cars(Trunks):
    """Cars, divided for one kind of test."""

    name: str = "cars"
    files: str = "cars196h"
    models: tuple[str, ...] = MODELS
