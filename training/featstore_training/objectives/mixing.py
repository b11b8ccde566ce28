"""Old features in place of some new ones when classifying, so that one classifier serves both (MixBCT).

B batch, N training rows, D old width.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from featstore.strict import Strict
from featstore_training.old_rows import OldRows, class_members

__all__ = ["MixParams", "Mixing", "credible_rows"]


class MixParams(Strict):
    """How old features are mixed in.

    Attributes:
        share: α, the part of a batch whose new feature is replaced by the old feature of the same image.
        credible: T, the part of each class that may be drawn: those nearest to the class mean.
        column_normalised: Whether each component of the old features is first divided by its norm over all rows, as the
            public denoising script does.
        skip_forward: Whether replaced images are left out of the backbone; they get no gradient either way.
    """

    what: ClassVar[str] = "params.mix"

    share: float = Field(default=0.3, ge=0, lt=1)
    credible: float = Field(default=0.9, gt=0, le=1)
    column_normalised: bool = True
    skip_forward: bool = True


class Mixing:
    """Draws the rows of a batch that show their old feature.

    Args:
        params: How many, from which.
        old: Old features of the training rows.
    """

    def __init__(self, params: MixParams, old: OldRows) -> None:
        self.share = params.share
        self.skip_forward = params.skip_forward
        # derived from cached rows alone, so it is computed again on resume rather than saved
        self.credible = credible_rows(old, params.credible, column_normalised=params.column_normalised)

    def choose(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """⌊αB⌋ of the credible rows at random, all of them where there are fewer; bool [B], never all of the batch."""
        credible = self.credible[rows].nonzero().flatten()
        count = min(math.floor(self.share * len(rows)), len(rows) - 1)
        drawn = credible[torch.randperm(len(credible), generator=generator)[:count]]
        return torch.zeros(len(rows), dtype=torch.bool).scatter(0, drawn, value=True)


def credible_rows(old: OldRows, share: float, *, column_normalised: bool) -> Tensor:
    """The ⌈share·n_c⌉ rows of every class nearest to its mean by Euclidean distance, bool [N]; two passes.

    Args:
        old: Unit rows.
        share: T.
        column_normalised: Divide every component by its L2 norm over all rows first.
    """
    scale = torch.ones(old.column.width, dtype=torch.float64)
    if column_normalised:
        square = sum((block.double().square().sum(dim=0) for _, block in old.blocks()), torch.zeros_like(scale))
        scale = 1 / square.sqrt().clamp(min=1e-12)
    prototypes = old.prototypes().means.double()
    distance = torch.empty(len(old), dtype=torch.float64)
    for part, block in old.blocks():
        distance[part] = ((block.double() - prototypes[old.labels[part]]) * scale).norm(dim=1)
    credible = torch.zeros(len(old), dtype=torch.bool)
    for _, members in class_members(old.labels):
        places = torch.from_numpy(members)
        nearest = distance[places].argsort(stable=True)[: math.ceil(share * len(places))]
        credible[places[nearest]] = True
    return credible
