"""Class prototypes: means of unit-norm features, raw as computed, normalised where a direction is needed.

C classes, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Prototypes", "class_means", "class_scatter"]

NO_DIRECTION = 1e-6  # a mean of unit vectors below this norm points nowhere in particular


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Per-class means of unit features.

    Attributes:
        means: [C, D] in the dtype of the features, not renormalised: the norm says how concentrated a class is. Zero
            without rows.
        counts: Rows of each class, int64 [C].
    """

    means: Tensor
    counts: Tensor

    @property
    def known(self) -> Tensor:
        """Classes that have a direction, bool [C]; false for a class without rows or whose rows cancel out."""
        found: Tensor = torch.linalg.vector_norm(self.means, dim=1) > NO_DIRECTION
        return found

    def unit(self) -> Tensor:
        """Means divided by their norm, [C, D]; zero where `known` is false."""
        return functional.normalize(self.means, dim=1) * self.known[:, None]

    def whitened(self, scatter: Tensor, shrinkage: float, power: float) -> Tensor:
        """Unit directions S^(−power)·p_c, [C, D], with S = (1 − shrinkage)·scatter + shrinkage·mean variance·I.

        With power 1 this is the direction along which cosine tells rows of class c from others best when all classes
        scatter alike (Fisher's linear discriminant): queries that point there are matched filters for the gallery.

        Args:
            scatter: Within-class covariance of the features the prototypes come from, [D, D].
            shrinkage: 0 to 1; above 0 unless there are far more rows than components.
            power: 0 leaves the prototypes as they are.
        """
        values, axes = torch.linalg.eigh(scatter.double())
        values = (1 - shrinkage) * values.clamp(min=0) + shrinkage * values.mean()
        turned = self.unit().double() @ axes * values.clamp(min=1e-12) ** -power @ axes.T
        return functional.normalize(turned, dim=1).to(self.means.dtype)


def class_means(blocks: Iterable[tuple[Tensor, Tensor]], classes: int) -> Prototypes:
    """Prototypes of features that come in blocks, summed in float64 so that the cut into blocks does not matter.

    Args:
        blocks: (features [n, D] of any norm above zero, class codes int64 [n] in 0 … C−1).
        classes: `C`.

    Raises:
        ValueError: there is no block.
    """
    sums, dtype = None, torch.float32
    counts = torch.zeros(classes, dtype=torch.int64)
    for features, labels in blocks:
        if sums is None:
            dtype = features.dtype
            sums = torch.zeros(classes, features.shape[1], dtype=torch.float64)
        sums.index_add_(0, labels, functional.normalize(features.double(), dim=1))
        counts += torch.bincount(labels, minlength=classes)
    if sums is None:
        raise ValueError("class means of no features")
    return Prototypes((sums / counts.clamp(min=1)[:, None]).to(dtype), counts)


def class_scatter(blocks: Iterable[tuple[Tensor, Tensor]], prototypes: Prototypes) -> Tensor:
    """Mean over rows of (f − class mean)(f − class mean)ᵀ, float64 [D, D].

    Args:
        blocks: (unit features [n, D], class codes int64 [n]).
        prototypes: Of these rows.
    """
    width = prototypes.means.shape[1]
    total, count = torch.zeros(width, width, dtype=torch.float64), 0
    for features, labels in blocks:
        centred = features.double() - prototypes.means.double()[labels]
        total += centred.T @ centred
        count += len(labels)
    return total / count
