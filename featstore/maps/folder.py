"""Run folders of maps: `map.safetensors` beside `card.json`; a map is built again from names, options and tensors alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from featstore.errors import (
    AlignmentError,
    AlreadyExistsError,
    CorruptStoreError,
    NonFiniteError,
    NotFoundError,
    UsageError,
)
from featstore.maps.config import MapConfig, map_config
from featstore.maps.modules import FeatureMap, build_map
from featstore.runs import CARD, RunCard, read_card, write_card
from featstore.spaces import Space, require_same
from featstore.store import FeatureSet
from featstore.whole_files import write_whole

__all__ = ["WEIGHTS", "LearnedMap", "load_map", "output_space", "save_map"]

WEIGHTS = "map.safetensors"
_RETRAIN = "copy the whole run folder again, or train again"


class _Architecture(BaseModel):
    """`architecture` of a map's card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    config: dict[str, Any]
    in_width: int = Field(gt=0)
    out_width: int = Field(gt=0)


@dataclass(frozen=True)
class LearnedMap:
    """A map that was read from its run folder.

    Attributes:
        module: The map, in eval mode, float32, on the CPU.
        card: The run's card.
        input_space: The space of its inputs.
        space: The space of its outputs.
        side_spaces: The spaces of the side-information that it takes behind its inputs, in this order.
    """

    module: FeatureMap
    card: RunCard
    input_space: Space
    space: Space
    side_spaces: tuple[Space, ...] = ()

    def require_inputs(self, features: FeatureSet, sides: Sequence[FeatureSet]) -> None:
        """Raise unless these sets lie in the spaces of its inputs.

        Raises:
            UsageError: more or less side-information than it takes.
            SpaceMismatchError: a set lies in another space.
        """
        names = ", ".join(space.name for space in self.side_spaces)
        if len(sides) != len(self.side_spaces):
            wanted = len(self.side_spaces)
            raise UsageError(
                f"the map {self.space.name} takes {'one set' if wanted == 1 else f'{wanted} sets'} of side-information, "
                f"not {len(sides)}",
                hint=f"give in this order, with --side SET each, the features of: {names}" if names else "no --side",
            )
        for item, space in zip((features, *sides), (self.input_space, *self.side_spaces), strict=True):
            require_same(
                space,
                item.space,
                what=f"{item.ref} as input of the map {self.space.name}",
                hint="give sets of the spaces it was trained on, or train a map on this one",
            )


def save_map(
    folder: Path,
    module: FeatureMap,
    *,
    config: MapConfig,
    input_space: Space,
    name: str,
    compatible_with: tuple[str, ...],
    training: dict[str, Any],
    extra_files: Sequence[str] = (),
    side_spaces: tuple[Space, ...] = (),
) -> RunCard:
    """Write a trained map as a run folder, the card last.

    Args:
        folder: The run folder; made if needed.
        module: The map, with finite float32 parameters on any device.
        config: What it was built from.
        input_space: The space of its inputs.
        name: What people call the space of its outputs.
        compatible_with: Digests of the spaces that its outputs are declared comparable with.
        training: Lineage for the card, as plain JSON.
        extra_files: Names of further files of the folder that belong to the run.
        side_spaces: The spaces of the side-information that stands behind the inputs.

    Returns:
        The card, with the digest of every file.

    Raises:
        AlreadyExistsError: the folder holds a finished run.
        AlignmentError: the map's width is not that of `input_space`.
        UsageError: the map was not built from `config`, or is not float32.
        NonFiniteError: the map holds NaN or infinity.
        NotFoundError: an extra file is not in the folder.
    """
    if (folder / CARD).exists():
        raise AlreadyExistsError(f"{folder} holds a finished run", hint="give another --out")
    if module.config != config:
        raise UsageError(f"the map was built from {module.config!r}, not from {config!r}")
    width = input_space.width + sum(space.width for space in side_spaces)
    if module.in_width != width:
        raise AlignmentError(f"the map takes {module.in_width} inputs, its input space has {width}")
    missing = [extra for extra in extra_files if Path(extra).name != extra or not (folder / extra).is_file()]
    if missing:
        raise NotFoundError(f"{', '.join(missing)} should belong to the run, but {folder} has no such file")
    state = _state(module)
    for key, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise UsageError(f"'{key}' of the map is {tensor.dtype}; a map is saved in float32")
        if not tensor.isfinite().all():
            raise NonFiniteError(f"'{key}' of the map holds NaN or infinity", hint="train again with a smaller step")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, save(state))
    architecture = _Architecture(
        name=config.name,
        config=config.model_dump(mode="json", exclude={"name"}),
        in_width=module.in_width,
        out_width=module.out_width,
    )
    space = output_space(
        module,
        config=config,
        input_space=input_space,
        name=name,
        compatible_with=compatible_with,
        side_spaces=side_spaces,
    )
    card = RunCard(
        kind="map",
        architecture=architecture.model_dump(),
        space=space,
        input_space=input_space,
        side_spaces=side_spaces,
        files=dict.fromkeys((WEIGHTS, *extra_files), ""),
        training=training,
    )
    return write_card(folder, card)


def output_space(
    module: FeatureMap,
    *,
    config: MapConfig,
    input_space: Space,
    name: str,
    compatible_with: tuple[str, ...] = (),
    side_spaces: tuple[Space, ...] = (),
) -> Space:
    """The space of a map's outputs, as `save_map` records it; the arguments mean the same."""
    return Space(
        name=name,
        width=module.out_width,
        identity=_identity(config, _state(module), input_space, side_spaces),
        compatible_with=compatible_with,
    )


def load_map(run: Path) -> LearnedMap:
    """The map of a run folder, after checking its files, its tensors and that its space is the one of these tensors.

    Raises:
        NotFoundError: no run folder, or a file of it is missing.
        UnknownNameError: its architecture is not registered.
        UsageError: the run is no map, or its config has options that this featstore does not know.
        CorruptStoreError: a file changed, or card and tensors contradict each other.
    """
    card = read_card(run)
    if card.kind != "map":
        raise UsageError(f"{run} holds an {card.kind}, not a map", hint="give the folder of a run that trained a map")
    try:
        architecture = _Architecture.model_validate(card.architecture)
    except ValidationError as error:
        raise CorruptStoreError(
            f"{run / CARD}: 'architecture' cannot be read: {error.errors()[0]['msg']}", hint=_RETRAIN
        ) from error
    config = map_config(architecture.name, architecture.config, where=str(run / CARD))
    if card.input_space is None or WEIGHTS not in card.files:
        raise CorruptStoreError(f"{run / CARD} names no input space or no {WEIGHTS}", hint=_RETRAIN)
    width = card.input_space.width + sum(space.width for space in card.side_spaces)
    if (width, card.space.width) != (architecture.in_width, architecture.out_width):
        raise CorruptStoreError(f"{run / CARD}: the widths of map and spaces differ", hint=_RETRAIN)
    try:
        state = load((run / WEIGHTS).read_bytes())
    except SafetensorError as error:
        raise CorruptStoreError(f"{run / WEIGHTS} cannot be read: {error}", hint=_RETRAIN) from error
    # built without memory first, so that a card with absurd widths is refused before anything is allocated
    with torch.device("meta"):
        module = build_map(config, architecture.in_width, architecture.out_width)
    if _shapes(module.state_dict()) != _shapes(state):
        raise CorruptStoreError(f"{run / WEIGHTS} does not hold the tensors of {config!r}", hint=_RETRAIN)
    if card.space.identity != _identity(config, state, card.input_space, card.side_spaces):
        raise CorruptStoreError(f"{run / CARD} describes the space of another map", hint=_RETRAIN)
    module.load_state_dict(state, assign=True)
    return LearnedMap(module.eval(), card, card.input_space, card.space, card.side_spaces)


def _state(module: FeatureMap) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()}


def _identity(
    config: MapConfig, state: Mapping[str, Tensor], input_space: Space, side_spaces: tuple[Space, ...]
) -> dict[str, Any]:
    sides = {"side": [space.digest for space in side_spaces]} if side_spaces else {}
    return {
        **sides,
        "kind": "map",
        "map": _digest(config, state),
        "architecture": config.name,
        "input": input_space.digest,
        "normalise": "l2" if config.normalise else "none",
    }


def _digest(config: MapConfig, state: Mapping[str, Tensor]) -> str:
    """blake3 of the config and of names, dtypes, shapes and bytes of the tensors in the order of their names, hex."""
    # with the config, because maps that differ in their activation only have the same tensors
    digest = blake3(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode())
    for key, tensor in sorted(state.items()):
        values = tensor.numpy()
        digest.update(json.dumps([key, values.dtype.str, list(values.shape)]).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
