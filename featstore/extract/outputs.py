"""What an extraction fills: a feature set for each encoder, and one more for each view of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from featstore.encoders import Encoder, Numerics, Preparation, ViewRecipe, load_encoder
from featstore.errors import UsageError
from featstore.extract.isolate import Room
from featstore.extract.request import ExtractRequest
from featstore.spaces import Space
from featstore.store.names import check_name, is_view, view_name

__all__ = ["Output", "Target", "load_outputs", "targets"]


class Target(NamedTuple):
    """What a worker has to know to make an output; picklable.

    Attributes:
        uri: Of the model.
        recipe: The view it sees; None for images as they are.
        numerics: How the model is computed.
    """

    uri: str
    recipe: ViewRecipe | None
    numerics: Numerics = Numerics()


@dataclass(frozen=True)
class Output:
    """One feature set in the making.

    Attributes:
        encoder: What encodes.
        recipe: The view it sees; None for images as they are.
        room: What is known of the memory for it.
    """

    encoder: Encoder
    recipe: ViewRecipe | None
    room: Room = field(default_factory=Room, compare=False)

    @cached_property
    def space(self) -> Space:
        """Space of the features."""
        return self.recipe.space(self.encoder.space) if self.recipe else self.encoder.space

    @property
    def preparation(self) -> Preparation:
        """What is done to a decoded image."""
        return Preparation(self.encoder.preprocess, self.recipe)


def targets(request: ExtractRequest) -> dict[str, Target]:
    """By name of the set, all that is asked for: `NAME` of every model, and `NAME.v1` … `NAME.vk`.

    Raises:
        UsageError: a name that cannot be a set's, or that says "view" without being one.
    """
    recipes = [
        ViewRecipe(number=number, seed=request.view_seed, augment=request.augment)
        for number in range(1, request.views + 1)
    ]
    found = {}
    for name, uri in request.models.items():
        check_name(name, "feature set")
        if is_view(name):
            raise UsageError(
                f"the name '{name}' is kept for a cached view",
                hint=f"choose another name; --views makes the views {view_name('NAME', 1)}, {view_name('NAME', 2)}, …",
            )
        found[name] = Target(uri, None)
        found |= {check_name(view_name(name, r.number), "feature set"): Target(uri, r) for r in recipes}
    return found


def load_outputs(wanted: Mapping[str, Target], batch: int = 1) -> dict[str, Output]:
    """Outputs by name of the set; each model is loaded once.

    Args:
        wanted: What is made.
        batch: Images that compiled networks see at once.
    """
    encoders: dict[str, Encoder] = {}
    for target in wanted.values():
        if target.uri not in encoders:
            encoders[target.uri] = load_encoder(target.uri).tuned(target.numerics, batch)
    return {name: Output(encoders[target.uri], target.recipe) for name, target in wanted.items()}
