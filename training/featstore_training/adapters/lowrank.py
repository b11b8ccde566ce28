"""Reduced-rank regression: an affine map through few components, small to ship and hard to overfit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from featstore.errors import TrainingError
from featstore.strict import Strict
from featstore_training.adapters.affine import affine_map
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work
from featstore_training.adapters.ridge import RidgePath, Strengths

__all__ = ["LowRank", "LowRankParams"]


class LowRankParams(Strict):
    """Settings of `lowrank`.

    Attributes:
        ranks: Values of r to choose from; None for all powers of two from 16 below both widths (or half of the smaller one).
        strengths: As in `ridge`.
    """

    what: ClassVar[str] = "params of lowrank"

    ranks: tuple[Annotated[int, Field(gt=0)], ...] | None = Field(default=None, min_length=1)
    strengths: Strengths = (1.0, 0.3, 0.1, 0.01)


class LowRank(Adapter):
    """The minimum of `ridge` among W of rank r: W_r = U_r U_rᵀ W (Izenman, 1975, with the penalty as further rows).

    U_r holds the first r eigenvectors of W (Σ (x̂ − x̄)(x̂ − x̄)ᵀ + λI) Wᵀ.
    """

    name = "lowrank"
    summary = "affine map of low rank; closed form, rank and strength chosen on held-out retrieval"
    paper = "Izenman, 1975; low-rank adapters for upgrades in Drift-Adapter, EMNLP 2025"
    Params = LowRankParams
    params: LowRankParams

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """One pass over the pairs; of every strength one eigendecomposition for all ranks."""
        del work
        limit = min(pairs.x.width, pairs.y.width)
        ranks = self.params.ranks or _ranks_below(limit)
        if max(ranks) > limit:
            raise TrainingError(
                f"a map from width {pairs.x.width} to {pairs.y.width} has no rank {max(ranks)}",
                hint=f"take ranks up to {limit}",
            )
        path = RidgePath(pairs.moments())

        def candidates() -> Iterator[Candidate]:
            for strength in sorted(self.params.strengths, reverse=True):
                weight = path.weight(strength)
                directions = np.linalg.eigh(path.fitted(strength))[1][:, ::-1]
                for rank in sorted(ranks):
                    first = directions[:, :rank]
                    down = first.T @ weight
                    module = affine_map(down, first, bias=path.bias(first @ down))
                    yield Candidate({"strength": strength, "rank": rank}, module)

        return choose(candidates())


def _ranks_below(limit: int) -> tuple[int, ...]:
    powers = tuple(2**power for power in range(4, limit.bit_length()) if 2**power < limit)
    return powers or (max(1, limit // 2),)
