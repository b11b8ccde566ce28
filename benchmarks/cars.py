"""The cars data as grounds for comparisons: old on MobileNetV1-0.25 features, new on EfficientNet-Lite1 features."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trunks import SCENARIOS, TESTS, WIDTH, Trunks

__all__ = ["MODELS", "NEW", "OLD", "SCENARIOS", "TESTS", "WIDTH", "Cars", "cars_parser"]

OLD, MIDDLE, NEW = MODELS = ("v1_025_128", "v1_100_128", "lite1_192")


@dataclass(frozen=True)
class Cars(Trunks):
    """Cars, divided for one kind of test."""

    name: str = "cars"
    files: str = "cars196h"
    models: tuple[str, ...] = MODELS


def cars_parser(
    description: str | None, *, out: str, tests: Sequence[str] = tuple(TESTS), seeds: int = 5
) -> argparse.ArgumentParser:
    """The options that every comparison on cars has.

    Args:
        description: The benchmark's own, whose first line is shown.
        out: What is kept in the folder.
        tests: Done where none is named.
        seeds: How many where none is given.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with features/ and cars196h/")
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--tests", nargs="*", choices=list(TESTS), default=list(tests))
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--table", type=Path, default=None, metavar="PAGE", help="write the tables of a page, run nothing"
    )
    return parser
