"""A training run before anything is computed: what was asked for, checked, and the rows it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from featstore.errors import TrainingError, UsageError
from featstore.evaluate import metric_info
from featstore.progress import SILENT, Progress
from featstore.store import FeatureSet, Store
from featstore.strict import Strict
from featstore_training.bridges import check_bridge
from featstore_training.cached_side import open_cached_side
from featstore_training.config import TrainConfig
from featstore_training.head_config import CosineConfig, HeadConfig, SimplexConfig
from featstore_training.holdout import Rows, choose_rows
from featstore_training.new_side import NewSide
from featstore_training.objectives import Objective, find_objective, objective_params
from featstore_training.objectives.base import Need
from featstore_training.old_head import OldRun, read_old_run
from featstore_training.pixel_side import open_pixel_side
from featstore_training.samplers import check_sampler
from featstore_training.seeds import derived_seed
from featstore_training.views import view_sets

__all__ = ["Job", "prepare"]

# where inputs are (what they are is recorded instead), and what cannot change the result
NOT_RECORDED = frozenset({"new", "images", "dataset", "model", "old", "side", "old_run", "workers"})


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that is fixed before anything is computed.

    Attributes:
        config: As given.
        method, params: The objective and its settings.
        head: The classifier's settings.
        new: What is trained on what.
        old, side: Feature sets.
        old_views: Cached views of the old set that steps compare with; none unless paired.
        old_run: What made the old set, if the user said so.
        width: Of the new features.
        rows: Training and validation rows.
        vertices: Of each class, for a simplex.
        assigned: Vertex of every class name of all generations so far, for a simplex.
    """

    config: TrainConfig
    method: type[Objective]
    params: Strict
    head: HeadConfig
    new: NewSide
    old: FeatureSet | None
    old_views: tuple[FeatureSet, ...]
    side: FeatureSet | None
    old_run: OldRun | None
    width: int
    rows: Rows
    vertices: tuple[int, ...] | None
    assigned: dict[str, int]

    @property
    def needs(self) -> frozenset[Need]:
        """Cached columns the objective reads."""
        return self.method.needs_with(self.params, side=self.side is not None)

    @property
    def compares(self) -> bool:
        """Whether the new features are to be compared with the old set."""
        return self.method.compares and self.old is not None

    @property
    def lineage(self) -> list[dict[str, Any]]:
        """The generations before this run, oldest first."""
        if self.old_run:
            return list(self.old_run.lineage)
        return [{"name": self.old.space.name, "space": self.old.space.digest}] if self.old and self.compares else []

    @property
    def request(self) -> dict[str, Any]:
        """Config and inputs as JSON: two runs with the same request are the same run."""
        config = self.config.model_dump(mode="json", exclude={*NOT_RECORDED, *self.new.unused})
        config |= {"width": self.width, "params": self.params.model_dump(mode="json")}
        config["head"] = self.head.model_dump(mode="json")
        sets = {"old": self.old, "side": self.side}
        inputs = {name: f"{s.ref} {s.record.uuid}" if s else None for name, s in sets.items()}
        inputs["new"] = self.new.identity
        inputs["old_views"] = " ".join(view.record.uuid for view in self.old_views) or None
        inputs["old_classifier"] = self.old_run.digest if self.old_run else None
        return {"config": config, "inputs": {**inputs, "rows_and_labels": self._rows_digest}}

    @property
    def start_seed(self) -> int:
        """Draws the first weights of map and classifier.

        It follows from the seed, the new side's space and the rows. So methods that learn the same thing with one seed begin
        alike, and two generations trained with one seed do not: beginning alike would tie them, whatever the method.
        """
        return derived_seed(self.config.seed, f"start {self.new.start} {self._rows_digest}")

    @property
    def _rows_digest(self) -> str:
        digest = blake3()
        for array in (self.rows.train, self.rows.validation, self.rows.train_labels, self.rows.validation_labels):
            digest.update(np.int64(len(array)).tobytes() + array.tobytes())
        digest.update("\0".join(self.rows.class_names).encode())
        return digest.hexdigest()


def prepare(store: Store, config: TrainConfig, progress: Progress = SILENT) -> Job:
    """Check a config against the store.

    Args:
        store: Where the sets are; full mode without an old set adds the images' dataset when it is new.
        config: What is asked for.
        progress: Told what is odd about a source.

    Raises:
        UsageError, UnknownNameError: settings that cannot mean anything.
        NotFoundError: a feature set or the old run is not there.
        SpaceMismatchError: the old run did not make the old set.
        AlignmentError: the sets belong to different datasets, or the images to another.
        TrainingError: nothing to train on, or widths that cannot be compared.
    """
    method = find_objective(config.loss)
    params = objective_params(config.loss, config.params)
    asked = {name: getattr(config, name) for name in config.model_fields_set}
    given = {name: value for name, value in asked.items() if value is not None or name not in method.defaults}
    config = TrainConfig(**{**method.defaults, **given})
    head: HeadConfig = config.head or CosineConfig()
    metric_info(config.metric)
    old = store.features(config.old) if config.old else None
    side = store.features(config.side) if config.side else None
    needs = method.needs_with(params, side=side is not None)
    if side and "side" not in needs:
        raise UsageError(f"loss '{config.loss}' uses no side-information", hint="leave --side out")
    if old is None and not method.old_optional:
        raise UsageError(f"loss '{config.loss}' compares with old features", hint="name them: --old DATASET/NAME")
    if config.old_run and old is None:
        raise UsageError("an old run without the set it made", hint="name it: --old DATASET/NAME")
    old_run = read_old_run(config.old_run, old.space) if config.old_run and old else None
    _check_old_run(config.loss, method, head, old if method.compares else None, old_run, needs)
    open_side = open_cached_side if config.images is None else open_pixel_side
    old_views = view_sets(store, old, config.views) if old and _paired(config, method, needs) else ()
    others = [features for features in (old, side) if features]
    new, usable = open_side(store, config, others, old_views, progress)
    if method.views_per_step > 1 and (new.mode == "head" or config.augment is None):
        raise UsageError(
            f"loss '{config.loss}' compares two random views of every image",
            hint="give it images and a model: --images FOLDER --model convnet, or --recipe simclr for all settings",
        )
    if unused := sorted(new.unused & {name for name, value in asked.items() if value is not None}):
        raise UsageError(f"the setting '{unused[0]}' means nothing in {new.mode} mode", hint="leave it out")
    width = _width(config, head) or new.natural_width(method, old.width if old else None, side.width if side else None)
    if old and method.compares:
        check_bridge(config.bridge, width, old.width)
    elif config.bridge:
        raise UsageError(f"loss '{config.loss}' compares nothing that a bridge could lead to", hint="leave it out")
    rows = choose_rows(new.dataset, usable, config, labelled_only="label" in needs)
    check_sampler(config.sampler, config.batch, config.per_class, len(rows.class_names))
    vertices, assigned = None, {}
    if isinstance(head, SimplexConfig):
        assigned = _assign(rows.class_names, old_run.assigned if old_run else {}, head.capacity)
        vertices = tuple(assigned[name] for name in rows.class_names)
    return Job(config, method, params, head, new, old, old_views, side, old_run, width, rows, vertices, assigned)


def _paired(config: TrainConfig, method: type[Objective], needs: frozenset[Need]) -> bool:
    """Whether steps compare with old features of the same views."""
    if config.old_views and not config.views:
        raise UsageError(f"old_views={config.old_views} without views", hint="say how many: --views K")
    if config.old_views == "paired" and "old_feature" not in needs:
        raise UsageError(
            f"loss '{config.loss}' compares no row with its own old feature, so there is nothing to pair",
            hint="leave old_views out",
        )
    if config.views == 0 or "old_feature" not in needs:
        return False
    return (config.old_views or ("paired" if method.paired else "clean")) == "paired"


def _width(config: TrainConfig, head: HeadConfig) -> int | None:
    """The width asked for, or the one that a simplex has."""
    if isinstance(head, SimplexConfig):
        fixed = head.capacity - 1
        if config.width not in (None, fixed):
            raise UsageError(
                f"a simplex of {head.capacity} vertices has width {fixed}, not {config.width}",
                hint=f"leave the width out, or --set head.capacity={(config.width or 0) + 1}",
            )
        return fixed
    return config.width


def _check_old_run(
    loss: str,
    method: type[Objective],
    head: HeadConfig,
    old: FeatureSet | None,
    old_run: OldRun | None,
    needs: frozenset[Need],
) -> None:
    """Methods that read more of the old model than its features need the run that made them."""
    if "old_classifier" in needs and old_run is None:
        raise UsageError(f"loss '{loss}' needs the old classifier", hint="give the run that has it: --old-run FOLDER")
    if "head" not in method.defaults:
        return
    if not isinstance(head, SimplexConfig):
        raise UsageError(f"loss '{loss}' is nothing without the simplex", hint="--set head.name=simplex")
    if old is not None:
        _check_simplex(loss, head, old_run)


def _check_simplex(loss: str, head: SimplexConfig, old_run: OldRun | None) -> None:
    """Generations are comparable on the same vertices only."""
    if old_run is None:
        raise UsageError(
            f"loss '{loss}' must know which class stood on which vertex", hint="give the old run: --old-run FOLDER"
        )
    asked = f"this one a simplex of {head.capacity} vertices; generations share one"
    if not isinstance(old_run.config, SimplexConfig):
        raise TrainingError(
            f"the old run has a {old_run.config.name} head, {asked}",
            hint=f"train the old one on it too: --loss {loss} --set head.capacity={head.capacity}",
        )
    if old_run.config.capacity != head.capacity:
        raise TrainingError(
            f"the old run has a simplex of {old_run.config.capacity} vertices, {asked}",
            hint=f"--set head.capacity={old_run.config.capacity}",
        )


def _assign(names: tuple[str, ...], before: dict[str, int], capacity: int) -> dict[str, int]:
    """Vertices by class name: those given before stay, new classes take the lowest free ones in order of name."""
    taken = set(before.values())
    fresh = [name for name in names if name not in before]
    free = [vertex for vertex in range(capacity) if vertex not in taken]
    if len(fresh) > len(free):
        raise TrainingError(
            f"{len(taken) + len(fresh)} classes over all generations do not fit on {capacity} vertices",
            hint="the first generation fixes the capacity; start anew with a larger one (--set head.capacity=…)",
        )
    return before | dict(zip(fresh, free, strict=False))
