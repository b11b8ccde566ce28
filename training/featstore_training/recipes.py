"""Recipes: YAML files that say which settings to try. They are data: no tags, no aliases, nothing is imported.

description: One line.
base:                      # settings of every trial, as in TrainConfig; {seed} in names stands for the trial's seed
  loss: odpp
grid:                      # dotted settings and the values to combine
  params.tau_old: [0.3, 0.4, 0.5]
trials: 16                 # so many of the combinations, spread over the grid at random; all if left out
seeds: [100, 101, 102]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from pydantic import Field

from featstore.errors import NotFoundError, UnknownNameError, UsageError
from featstore.strict import Strict
from featstore_training.seeds import array_generator

__all__ = ["Recipe", "find_recipe", "merged", "parse_recipe", "read_recipe", "shipped_recipe", "shipped_recipes"]

MOST_BYTES = 1 << 20
MOST_COMBINATIONS = 100_000


class Recipe(Strict):
    """Which settings a sweep tries.

    Attributes:
        description: One line.
        base: Settings that all trials share, nested as in TrainConfig.
        grid: Values to combine, by dotted name of a setting.
        trials: How many combinations; None takes all.
        seeds: Seeds that every combination is trained with; its score is the mean.
        draw: Seed of the draw of combinations.
    """

    what: ClassVar[str] = "the recipe"

    description: str = ""
    base: dict[str, Any]
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    trials: int | None = Field(default=None, ge=1)
    seeds: tuple[int, ...] = Field(default=(100, 101, 102), min_length=1)
    draw: int = Field(default=0, ge=0)

    def combinations(self) -> list[dict[str, Any]]:
        """The trials' settings from the grid, dotted; the first is the first value of every setting.

        When not all are taken, the values of each setting come up equally often, as far as combinations do not repeat: a
        few trials still say something about every setting.

        Raises:
            UsageError: a setting without values, or too many combinations.
        """
        count = 1
        for name, values in self.grid.items():
            if not values:
                raise UsageError(f"the recipe's grid has no values for '{name}'", hint=f"write {name}: [1, 2]")
            count *= len(values)
        if count > MOST_COMBINATIONS:
            raise UsageError(f"the recipe's grid has {count:,} combinations", hint="leave settings out of the grid")
        if self.trials is None or self.trials >= count:
            chosen: Iterable[tuple[int, ...]] = itertools.product(
                *(range(len(values)) for values in self.grid.values())
            )
        else:
            chosen = self._spread(self.trials)
        return [
            {name: values[place] for (name, values), place in zip(self.grid.items(), places, strict=True)}
            for places in chosen
        ]

    def _spread(self, trials: int) -> list[tuple[int, ...]]:
        """Places of the values of so many combinations, the first of all zeros."""
        draw = array_generator(self.draw, "trials")
        found = {(0,) * len(self.grid): None}
        while len(found) < trials:
            columns = [draw.permutation(np.arange(1, trials) % len(values)).tolist() for values in self.grid.values()]
            found |= dict.fromkeys(zip(*columns, strict=True))
        return list(found)[:trials]


def merged(base: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with dotted ones on top: `{"params": {"weight": 2}}` and `{"params.mu": 0.1}`.

    Raises:
        UsageError: a dot leads into something that is one value.
    """
    result: dict[str, Any] = {
        key: merged(value, {}) if isinstance(value, dict) else value for key, value in base.items()
    }
    for name, value in dotted.items():
        place = result
        *path, last = name.split(".")
        for part in path:
            inner = place.setdefault(part, {})
            if isinstance(inner, str):  # the name of a kind alone, as in head: arcface
                inner = place[part] = {"name": inner}
            if not isinstance(inner, dict):
                raise UsageError(f"'{name}': '{part}' is one value, not a group of settings")
            place = inner
        place[last] = value
    return result


def find_recipe(name: str) -> Recipe:
    """The recipe in a file, or the shipped one of that name.

    Raises:
        UnknownNameError: neither is there.
        UsageError: it is no recipe.
    """
    return read_recipe(Path(name)) if Path(name).is_file() else parse_recipe(shipped_recipe(name), name)


def read_recipe(path: Path) -> Recipe:
    """A recipe from a file.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is no recipe.
    """
    if not path.is_file():
        raise NotFoundError(
            f"there is no recipe {path}", hint="`featstore config ls` lists the shipped ones, `config cp` copies one"
        )
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} is larger than a recipe can be ({MOST_BYTES >> 20} MiB)")
    return parse_recipe(path.read_text(encoding="utf-8"), str(path))


def parse_recipe(text: str, where: str) -> Recipe:
    """A recipe from YAML; `where` is named in errors.

    Raises:
        UsageError: broken YAML, tags or aliases, a key twice, unknown keys or wrong values.
    """
    try:
        content = yaml.load(text, _PlainLoader)  # noqa: S506 - derived from the safe loader
    except yaml.YAMLError as error:
        raise UsageError(
            f"{where} cannot be read: {error}", hint="`featstore config show bct` is an example"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{where} holds no settings", hint="`featstore config show bct` is an example")
    return Recipe(**{str(key): value for key, value in content.items()})


def shipped_recipes() -> dict[str, str]:
    """Text of every recipe that comes with featstore, by name."""
    return dict(sorted(_shipped()))


def _shipped() -> Iterator[tuple[str, str]]:
    for entry in files("featstore_training").joinpath("recipes").iterdir():
        if entry.name.endswith(".yaml"):
            yield entry.name.removesuffix(".yaml"), entry.read_text(encoding="utf-8")


def shipped_recipe(name: str) -> str:
    """Text of one of them.

    Raises:
        UnknownNameError: there is none of that name.
    """
    known = shipped_recipes()
    if name not in known:
        raise UnknownNameError(
            "recipe", name, known, hint="`featstore config ls` lists them; a file of your own works too"
        )
    return known[name]


class _PlainLoader(yaml.SafeLoader):
    """YAML without what makes small files huge (aliases) or ambiguous (a key twice)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"'{twice[0]}' stands there twice")
        return super().construct_mapping(node, deep=deep)
