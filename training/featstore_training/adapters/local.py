"""A Procrustes map for every region of the space, blended by how near a feature lies to each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from featstore.errors import TrainingError
from featstore.maps import FeatureMap, MixtureConfig, build_map
from featstore.strict import Strict
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work
from featstore_training.adapters.procrustes import nearest_orthogonal
from featstore_training.seeds import array_generator

__all__ = ["Local", "LocalParams"]

CENTRES_FROM = 65536  # rows that k-means sees


class LocalParams(Strict):
    """Settings of `local`.

    Attributes:
        parts: Numbers of clusters K to choose from.
        sharpness: How fast the blend turns to the nearest centre: weights are softmax(sharpness · cos(x, centre)).
        prior: Values of κ to choose from: how many rows of the whole every cluster's sums are filled up with.
    """

    what: ClassVar[str] = "params of local"

    parts: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (4, 16)
    sharpness: float = Field(default=20.0, gt=0)
    prior: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (10000.0, 1000.0, 100.0)


class Local(Adapter):
    """Output Σ_k w_k(x̂) W_k x̂, w = softmax(sharpness · cos(x̂, c_k)), W_k the Procrustes solution of S_k + κ S/N.

    S_k is Σ ŷ x̂ᵀ over the rows nearest to c_k, S over all N rows; centres from spherical k-means. With κ → ∞ every W_k
    is that of `procrustes`.
    """

    name = "local"
    summary = "a rotation for every cluster, blended; clusters and shrinkage chosen on held-out retrieval"
    paper = "after Local Drift-Adapters, 2026 (reconstructed from the abstract)"
    Params = LocalParams
    params: LocalParams

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """For every number of clusters one k-means on a sample and one pass over the pairs."""
        if max(self.params.parts) > len(pairs.x):
            raise TrainingError(
                f"{len(pairs.x)} rows cannot be divided into {max(self.params.parts)} clusters",
                hint="--set params.parts=[2,4]",
            )

        def candidates() -> Iterator[Candidate]:
            for parts in sorted(self.params.parts):
                centres = _centres(pairs, parts, work.seed)
                sums, counts = _cluster_sums(pairs, centres)
                whole = sums.sum(axis=0) / counts.sum()
                for prior in sorted(self.params.prior, reverse=True):
                    weights = np.stack([nearest_orthogonal(part + prior * whole) for part in sums])
                    yield Candidate({"parts": parts, "prior": prior}, self._blended(weights, centres))

        return choose(candidates())

    def _blended(self, weights: NDArray[np.float64], centres: NDArray[np.float32]) -> FeatureMap:
        config = MixtureConfig(parts=len(centres), sharpness=self.params.sharpness)
        module = build_map(config, weights.shape[2], weights.shape[1])
        stacked = torch.from_numpy(weights.reshape(-1, weights.shape[2]))
        module.body.load_state_dict({"centres": torch.from_numpy(centres), "weight": stacked.float()})
        return module.eval()


def _centres(pairs: Pairs, parts: int, seed: int) -> NDArray[np.float32]:
    """Unit centres [K, D_x] of a sample of the rows."""
    rows = array_generator(seed, "centres").permutation(len(pairs.x))[:CENTRES_FROM]
    sample = np.ascontiguousarray(pairs.x.take(np.sort(rows)).numpy(), np.float32)
    means = faiss.Kmeans(
        sample.shape[1], parts, niter=20, seed=seed + 1, spherical=True, min_points_per_centroid=1, verbose=False
    )
    means.train(sample)
    centres: NDArray[np.float32] = np.array(means.centroids, np.float32).reshape(parts, -1)
    return centres


def _cluster_sums(pairs: Pairs, centres: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Σ ŷ x̂ᵀ over the rows nearest to each centre [K, D_y, D_x], and how many they are; one pass."""
    sums = np.zeros((len(centres), pairs.y.width, pairs.x.width))
    counts = np.zeros(len(centres), np.int64)
    for x, y in pairs.blocks():
        nearest = (x @ torch.from_numpy(centres).T).argmax(dim=1)
        for part in np.unique(nearest.numpy()).tolist():
            members = nearest == part
            sums[part] += (y[members].double().T @ x[members].double()).numpy()
            counts[part] += int(members.sum())
    return sums, counts
