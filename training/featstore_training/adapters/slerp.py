"""A query between the old model's and the new model's: both encoders run, one vector is searched with."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from featstore.maps import SlerpConfig, build_map
from featstore.strict import Strict
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work
from featstore_training.adapters.moments import Moments
from featstore_training.adapters.procrustes import nearest_orthogonal

__all__ = ["Slerp", "SlerpParams"]


class SlerpParams(Strict):
    """Settings of `slerp`.

    Attributes:
        shares: Values of α to choose from, 0 for the old query and 1 for the new one in the old space.
    """

    what: ClassVar[str] = "params of slerp"

    shares: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)] = (
        *(step / 10 for step in range(11)),
    )


class Slerp(Adapter):
    """Query slerp(û, W v̂; α) of the old query u and the new one v, W the `procrustes` solution Σ‖W v̂ − û‖² → min.

    α is chosen by labels on held-out rows. The old encoder runs for every query as well, so its features stand behind the
    new ones, as side-information does.
    """

    name = "slerp"
    summary = "between the old query and the rotated new one; both encoders run for every query"
    paper = "SLERP backward compatibility, NeurIPS 2026 (as read)"
    Params = SlerpParams
    params: SlerpParams
    directions = ("new-to-old",)
    takes_target = True

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """One pass for the rotation, one measurement for every α."""
        del work
        width = pairs.x.width - pairs.y.width
        moments = Moments.of(((x[:, :width], y) for x, y in pairs.blocks()), width, pairs.y.width)
        rotation = torch.from_numpy(nearest_orthogonal(moments.yx)).float()

        def candidate(share: float) -> Candidate:
            module = build_map(SlerpConfig(share=share), pairs.x.width, pairs.y.width)
            module.body.load_state_dict({"turn.weight": rotation})
            return Candidate({"share": share}, module.eval())

        shares = self.params.shares
        return candidate(shares[0]) if len(shares) == 1 else choose(map(candidate, shares))
