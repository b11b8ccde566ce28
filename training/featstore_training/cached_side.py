"""Head mode: a map on cached features of the new backbone.

N rows, D_in width of the features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from featstore.errors import UsageError
from featstore.maps import FeatureMap, MapConfig, build_map, output_space, save_map
from featstore.maps.folder import WEIGHTS
from featstore.progress import Progress
from featstore.runs import RunCard
from featstore.spaces import Space
from featstore.store import FeatureSet, Store, common_rows
from featstore_training.batches import TrainingRows
from featstore_training.column_cache import ColumnCache
from featstore_training.config import TrainConfig
from featstore_training.inputs import Inputs
from featstore_training.objectives import Objective
from featstore_training.seeds import global_seed
from featstore_training.views import check_paired, view_sets

__all__ = ["CachedSide", "open_cached_side"]


class CachedSide:
    """Head mode: a map on cached features; no image is read.

    Args:
        features: Of the new backbone.
        config: What the map is made of.
        views: Cached views of the features.
        seed: Draws which of them a step sees.
    """

    weights = WEIGHTS
    mode = "head"
    unused = frozenset({"augment", "dataset", "model"})

    def __init__(
        self, features: FeatureSet, config: MapConfig, views: tuple[FeatureSet, ...] = (), *, seed: int = 0
    ) -> None:
        self.features = features
        self.dataset = features.dataset
        self.width = features.width
        self.start = features.space.digest
        self.identity = " ".join(f"{item.ref} {item.record.uuid}" for item in (features, *views))
        self._config = config
        self._views = views
        self._seed = seed

    def natural_width(self, method: type[Objective], old: int | None, side: int | None) -> int:
        """What the method takes for a map on these features."""
        return method.default_width(self._config, self.width, old, side)

    def inputs(self, rows: NDArray[np.int64], cache: ColumnCache) -> Inputs:
        """The features, of any norm."""
        return cache.viewed(self.features, self._views, rows, unit=False, seed=self._seed)

    def raw(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]] | None:
        """The features themselves."""
        return self.features.gather(rows)

    def build(self, seed: int, width: int, rows: TrainingRows) -> nn.Module:
        """The map, standardising its inputs."""
        with global_seed(seed, "map"):
            module = build_map(self._config, self.width, width)
        module.fit_input(*rows.input_statistics())
        return module

    def space(self, module: nn.Module, name: str) -> Space:
        """The map's output space."""
        return output_space(_map(module), config=self._config, input_space=self.features.space, name=name)

    def save(
        self,
        folder: Path,
        module: nn.Module,
        *,
        name: str,
        compatible_with: tuple[str, ...],
        training: dict[str, Any],
        extra_files: tuple[str, ...],
    ) -> RunCard:
        """As a map's run folder."""
        return save_map(
            folder,
            _map(module),
            config=self._config,
            input_space=self.features.space,
            name=name,
            compatible_with=compatible_with,
            training=training,
            extra_files=extra_files,
        )


def open_cached_side(
    store: Store, config: TrainConfig, others: list[FeatureSet], old_views: tuple[FeatureSet, ...], progress: Progress
) -> tuple[CachedSide, NDArray[np.int64]]:
    """The new side of a config without images, and the rows that have a feature in it and in every other set.

    Raises:
        UsageError: nothing says what the new side is.
        NotFoundError: there is no such set.
        AlignmentError: the sets belong to different datasets, or old views are of other draws.
    """
    del progress
    if config.new is None:
        raise UsageError(
            "nothing says what the new side is", hint="--new DATASET/NAME, or --images FOLDER --model MODEL"
        )
    features = store.features(config.new)
    views = view_sets(store, features, config.views)
    if old_views:
        check_paired(views, old_views)
    side = CachedSide(features, config.map, views, seed=config.seed)
    return side, common_rows([features, *views, *others, *old_views])


def _map(module: nn.Module) -> FeatureMap:
    if not isinstance(module, FeatureMap):
        raise TypeError(f"head mode trains a FeatureMap, not {type(module).__name__}")
    return module
