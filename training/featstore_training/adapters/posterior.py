"""A query for the class that the new model sees, where the old gallery keeps that class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from featstore.errors import TrainingError, UsageError
from featstore.maps import PosteriorConfig, build_map
from featstore.strict import Strict
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work
from featstore_training.adapters.procrustes import nearest_orthogonal
from featstore_training.heads import CosineSoftmax
from featstore_training.prototypes import class_means, class_scatter

__all__ = ["Posterior", "PosteriorParams"]

Share = Annotated[float, Field(ge=0, le=1)]


class PosteriorParams(Strict):
    """Settings of `posterior`.

    Attributes:
        scales: Values of γ to choose from: how fast the posterior turns to the likeliest class.
        shares: Values of β to choose from: 1 is the posterior alone, 0 is `procrustes`.
        power: p of the whitening S^(−p); 0 leaves the class means as they are.
        shrinkage: How much of the within-class scatter S is replaced by its mean variance.
    """

    what: ClassVar[str] = "params of posterior"

    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (6.0, 12.0, 24.0)
    shares: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.0, 0.25, 0.5, 0.75, 1.0)
    power: float = Field(default=1.0, ge=0, le=1)
    shrinkage: float = Field(default=0.3, ge=0, le=1)


class Posterior(Adapter):
    """Query β · norm(Σ_c p_c q_c) + (1 − β) · W x̂, p = softmax_c(γ · cos(x, k_c)), q_c = norm(S^(−1) mean_c f̂ᵒ).

    k_c is the new classifier's column of class c, or without a run that has one the class mean of new features; S the
    within-class scatter of the old features, W the `procrustes` solution. q_c is the query that tells rows of class c from
    the others best, and W x̂ serves galleries of other classes: γ and β are chosen by held-out retrieval.
    """

    name = "posterior"
    summary = "searches for the class the new model sees, as old features show it, blended with a rotation"
    paper = "(ours)"
    Params = PosteriorParams
    params: PosteriorParams
    needs = frozenset({"new_feature", "old_feature", "label"})
    directions = ("new-to-old",)

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """Three passes over the pairs: sums, class means, scatter."""
        del work
        keys, queries = self._keys(pairs), self._queries(pairs)
        rotation = torch.from_numpy(nearest_orthogonal(pairs.moments().yx)).float()
        state = {"keys": keys.float(), "queries": queries.float(), "straight": rotation}

        def candidates() -> Iterator[Candidate]:
            for share in self.params.shares:
                for scale in self.params.scales if share else self.params.scales[:1]:
                    config = PosteriorConfig(classes=len(keys), scale=scale, share=share)
                    module = build_map(config, pairs.x.width, pairs.y.width)
                    module.body.load_state_dict(state)
                    yield Candidate({"scale": scale, "share": share}, module.eval())

        return choose(candidates())

    def _keys(self, pairs: Pairs) -> Tensor:
        """Where the classes lie among new features, unit [C, D_n]."""
        classes = pairs.required_classes()
        if classes.head is None:
            if classes.count < 2:
                raise TrainingError("there are no two classes among these rows", hint="`procrustes` needs no labels")
            return class_means(((x, label) for x, _, label in pairs.labelled()), classes.count).unit()
        if not isinstance(classes.head, CosineSoftmax):
            raise UsageError(
                "the new model's classifier has no directions to compare with: it is not of a cosine kind",
                hint="leave --new-run out to take class means of new features",
            )
        return classes.head.columns().detach()

    def _queries(self, pairs: Pairs) -> Tensor:
        """What finds each class among old features, unit [C, D_o]; 0 for a class without rows."""
        means = class_means(((y, label) for _, y, label in pairs.labelled()), pairs.required_classes().count)
        scatter = class_scatter(((y, label) for _, y, label in pairs.labelled()), means)
        return means.whitened(scatter, self.params.shrinkage, self.params.power)
