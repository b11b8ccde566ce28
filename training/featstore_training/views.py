"""Cached views in training: each epoch sees every row as it is or in one of its views, the same one on both sides if paired.

N training rows, B batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featstore.encoders import ViewRecipe, view_recipe
from featstore.errors import AlignmentError, NotFoundError
from featstore.spaces import require_same
from featstore.store import FeatureSet, Store, view_name
from featstore_training.inputs import Unchanging
from featstore_training.old_rows import Column
from featstore_training.seeds import array_generator

__all__ = ["ViewedColumn", "check_paired", "drawn_views", "recipes_of", "view_sets"]


@lru_cache(maxsize=4)
def drawn_views(seed: int, epoch: int, views: int, rows: int) -> NDArray[np.int64]:
    """The view every row is seen in during an epoch, int64 [N]: 0 is the row as it is, then 1 … `views`, all equally likely."""
    return array_generator(seed, f"views of epoch {epoch}").integers(views + 1, size=rows)


def view_sets(store: Store, features: FeatureSet, views: int) -> tuple[FeatureSet, ...]:
    """The sets `NAME.v1` … `NAME.vk` of a set, newest versions.

    Raises:
        NotFoundError: one of them is not there.
        SpaceMismatchError: one holds features of another encoder.
    """
    found = []
    name = features.record.name
    for number in range(1, views + 1):
        key = f"{features.dataset.name}/{view_name(name, number)}"
        if not store.has_features(key):
            raise NotFoundError(
                f"{key} is not there: {features.ref} has fewer than {views} cached views",
                hint=(
                    f"make them: featstore extract SOURCE --dataset {features.dataset.name} "
                    f"--model {name}=MODEL --views {views}"
                ),
            )
        view = store.features(key)
        recipe = view_recipe(view.space)
        # imported views have the space of the set they are views of, and nothing says how they were drawn
        expected = recipe.space(features.space) if recipe else features.space
        require_same(expected, view.space, what=f"{view.ref} is no view of {features.ref}")
        found.append(view)
    return tuple(found)


def recipes_of(views: Iterable[FeatureSet]) -> tuple[ViewRecipe, ...]:
    """How views were drawn, for drawing them again.

    Raises:
        AlignmentError: a set does not say it.
    """
    recipes = []
    for view in views:
        recipe = view_recipe(view.space)
        if recipe is None:
            raise AlignmentError(
                f"{view.ref} does not say how its views were drawn, so images cannot be cut the same way",
                hint="pair with views that `featstore extract --views` made, or leave --views out",
            )
        recipes.append(recipe)
    return tuple(recipes)


def check_paired(new: Sequence[FeatureSet], old: Sequence[FeatureSet]) -> None:
    """See that two sides' views are of the same draws.

    Raises:
        AlignmentError: they are not.
    """
    for one, other in zip(new, old, strict=True):
        left, right = view_recipe(one.space), view_recipe(other.space)
        if left != right:
            raise AlignmentError(
                f"{one.ref} and {other.ref} are views of different draws ({left!r}, {right!r}), so rows cannot be paired",
                hint="extract both with the same --view-seed and --augment, or do not pair: --set old_views=clean",
            )


class ViewedColumn(Unchanging):
    """A column with views: as it is wherever a pass over the rows is asked for, in drawn views for training steps.

    Args:
        clean: The rows as they are.
        views: What reads each view of the same rows, called once it is needed.
        seed: Of the run; columns with the same seed, rows and number of views draw the same ones.
    """

    def __init__(self, clean: Column, views: Sequence[Callable[[], Column]], seed: int) -> None:
        self._clean = clean
        self._views = views
        self._seed = seed

    @property
    def width(self) -> int:
        """D."""
        return self._clean.width

    def __len__(self) -> int:
        return len(self._clean)

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Rows by position, as they are."""
        return self._clean.take(positions)

    def blocks(self) -> Iterable[tuple[slice, Tensor]]:
        """All rows in order, as they are."""
        return self._clean.blocks()

    def training(self, positions: NDArray[np.int64], epoch: int) -> Tensor:
        """Rows by position, each in the view of this epoch, float32 [B, D]."""
        drawn = drawn_views(self._seed, epoch, len(self._views), len(self))[positions]
        taken = torch.empty(len(positions), self.width)
        for number in np.unique(drawn).tolist():
            chosen = np.flatnonzero(drawn == number)
            taken[torch.from_numpy(chosen)] = self._columns[number].take(positions[chosen])
        return taken

    @cached_property
    def _columns(self) -> list[Column]:
        return [self._clean, *(read() for read in self._views)]
