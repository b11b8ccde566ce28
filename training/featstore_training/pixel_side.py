"""Full mode: a backbone on images, found by the ids of the dataset's rows.

N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featstore.encoders import Augment, Encoder, ViewRecipe, save_encoder
from featstore.encoders.uris import ENCODER_FILE
from featstore.errors import NonFiniteError, UsageError
from featstore.extract.listing import Places, add_rows, list_source, report_differences
from featstore.maps import BasisConfig
from featstore.progress import Progress
from featstore.runs import RunCard
from featstore.sources import Source, open_source
from featstore.spaces import Space
from featstore.store import Dataset, FeatureSet, Store, common_rows
from featstore_training.backbone import Backbone, initial_encoder, rotated
from featstore_training.batches import TrainingRows
from featstore_training.column_cache import ColumnCache
from featstore_training.config import TrainConfig
from featstore_training.images import ImageRows
from featstore_training.inputs import Inputs
from featstore_training.objectives import Objective
from featstore_training.views import recipes_of

__all__ = ["PixelSide", "open_pixel_side"]

UNUSED = frozenset({"map", "new"})


class PixelSide:
    """Full mode: a backbone on images, found by the ids of the dataset's rows.

    Args:
        dataset: Whose rows are read.
        source: Where the images are.
        encoder: Before training.
        augment: What training changes about images.
        recipes: Views that training sees instead.
        seed: Of these changes.
        workers: Threads that prepare images.
        unused: Settings of the run that say nothing about this backbone.
    """

    weights = ENCODER_FILE
    mode = "full"

    def __init__(
        self,
        dataset: Dataset,
        source: Source,
        encoder: Encoder,
        augment: Augment | None,
        recipes: Sequence[ViewRecipe] = (),
        *,
        seed: int,
        workers: int,
        unused: frozenset[str] = UNUSED,
    ) -> None:
        self.unused = unused
        self.dataset = dataset
        self.width = encoder.width
        self.start = encoder.space.digest
        self.identity = f"{dataset.name} {self.start}"
        self._source = source
        self._encoder = encoder
        self._augment = augment
        self._recipes = recipes
        self._seed = seed
        self._workers = workers

    def natural_width(self, method: type[Objective], old: int | None, side: int | None) -> int:
        """What the backbone gives."""
        del method, old, side
        return self.width

    def inputs(self, rows: NDArray[np.int64], cache: ColumnCache) -> Inputs:
        """The images."""
        del cache
        return ImageRows(
            self._source,
            Places(self.dataset).take(rows),
            self._encoder.preprocess,
            self._augment,
            self._recipes,
            seed=self._seed,
            workers=self._workers,
        )

    def raw(self, rows: NDArray[np.int64]) -> None:
        """None: what an untrained network makes of images is no measure."""
        del rows

    def build(self, seed: int, width: int, rows: TrainingRows) -> nn.Module:
        """The backbone; its weights were drawn already."""
        del seed, rows
        if width != self.width:
            raise UsageError(
                f"the model has features of width {self.width}, not {width}",
                hint="leave the width out, or give the architecture another: --set model.config.embedding=…",
            )
        return Backbone(self._encoder.module, normalise=self._encoder.normalise)

    def space(self, module: nn.Module, name: str) -> Space:
        """The trained encoder's space."""
        return self._trained(module, name, ()).space

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
        """As an encoder's run folder, for `extract --model NAME=run:FOLDER`."""
        encoder = self._trained(module, name, compatible_with)
        for key, tensor in encoder.module.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise NonFiniteError(
                    f"'{key}' of the backbone holds NaN or infinity", hint="train with a lower rate: --set lr=…"
                )
        return save_encoder(folder, encoder, training=training, extra_files=extra_files)

    def _trained(self, module: nn.Module, name: str, compatible_with: tuple[str, ...]) -> Encoder:
        if not isinstance(module, Backbone):
            raise TypeError(f"full mode trains a Backbone, not {type(module).__name__}")
        start = self._encoder
        return Encoder(
            module.network,
            start.preprocess,
            architecture=start.architecture,
            config=start.config,
            name=name,
            normalise=start.normalise,
            compatible_with=compatible_with,
        )


def open_pixel_side(
    store: Store, config: TrainConfig, others: list[FeatureSet], old_views: tuple[FeatureSet, ...], progress: Progress
) -> tuple[PixelSide, NDArray[np.int64]]:
    """The new side of a config with images, and the rows that have an image and a feature in every other set.

    Without other sets the images' dataset must be named; it is made when it is new, as `extract` would.

    Raises:
        UsageError: no model, no dataset, or one that the other sets do not belong to.
        NotFoundError, BadInputError: no images.
        AlignmentError: the dataset was made from other images.
    """
    if config.views and not old_views:
        raise UsageError(
            "full mode draws fresh views of images by itself; cached ones are there to pair with the old set's",
            hint="leave --views out, or pair them: --set old_views=paired",
        )
    if old_views and "augment" in config.model_fields_set:
        raise UsageError("paired views are cut as the old set's were", hint="leave augment out")
    if config.model is None:
        raise UsageError("images, but no model to train on them", hint="--model run:FOLDER, or --model convnet")
    names = [config.dataset, *(features.dataset.name for features in others)]
    name = next((name for name in names if name), None)
    if name is None:
        raise UsageError(
            "without an old set nothing says which dataset the images are", hint="--dataset NAME; it is made when new"
        )
    if others and name != others[0].dataset.name:
        raise UsageError(f"{others[0].ref} is not of dataset {name}", hint="leave --dataset out")
    source = open_source(str(config.images))
    encoder = initial_encoder(config.model, config.seed)
    unused = UNUSED
    if isinstance(config.map, BasisConfig):
        proper = store.features(config.side).width if config.side else encoder.width
        encoder = rotated(encoder, config.map, config.width or proper + config.map.extra, config.seed)
        unused = UNUSED - {"map"}
    listing = list_source(store, source, name)
    report_differences(listing, progress)
    if store.has_dataset(name):
        dataset = others[0].dataset if others else store.dataset(name)
        usable = np.unique(listing.known)
        if len(listing.new):
            progress.note(f"{len(listing.new)} images are not in dataset {name} yet and are not trained on")
    else:
        dataset = add_rows(store, source, name, listing)
        usable = dataset.live_rows()
    recipes = recipes_of(old_views)
    side = PixelSide(
        dataset,
        source,
        encoder,
        config.augment,
        recipes,
        seed=config.seed,
        workers=config.workers,
        unused=unused,
    )
    sets = [*others, *old_views]
    return side, np.intersect1d(usable, common_rows(sets)) if sets else usable
