"""Orthogonal Procrustes: the rotation (or reflection) that brings one space as near to another as angles allow."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from featstore.errors import TrainingError
from featstore.strict import Strict
from featstore_training.adapters.affine import affine_map
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work

__all__ = ["Procrustes", "ProcrustesParams", "nearest_orthogonal"]


class ProcrustesParams(Strict):
    """Settings of `procrustes`.

    Attributes:
        centre: Fit and apply with the means taken off: x → W(x̂ − x̄) + ȳ. Off, cosines inside the mapped space are unchanged.
        rotation_only: No reflection: det W = +1; for equal widths.
    """

    what: ClassVar[str] = "params of procrustes"

    centre: bool = False
    rotation_only: bool = False


class Procrustes(Adapter):
    """W = U Vᵀ for Σ y xᵀ = U S Vᵀ: argmax tr(Wᵀ Σ y xᵀ) among W with orthonormal rows or columns (Schönemann, 1966).

    Rows have norm 1. To a wider space W has orthonormal columns and is the least-squares solution; to a narrower one
    it has orthonormal rows and is the solution for targets filled up with zeros.
    """

    name = "procrustes"
    summary = "the nearest rotation, keeps all angles; closed form, nothing to choose"
    paper = "Schönemann, 1966; for upgrades in Drift-Adapter, EMNLP 2025"
    Params = ProcrustesParams
    params: ProcrustesParams
    forms: ClassVar = {"rotation": {"rotation_only": True}, "centred": {"centre": True}}

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """One pass over the pairs, one singular value decomposition."""
        del choose, work
        if self.params.rotation_only and pairs.x.width != pairs.y.width:
            raise TrainingError(
                f"from width {pairs.x.width} to {pairs.y.width} there is no determinant to ask for",
                hint="leave rotation_only out; a map between different widths can always be completed to a rotation",
            )
        moments = pairs.moments()
        if not self.params.centre:
            return Candidate({}, affine_map(nearest_orthogonal(moments.yx, rotation=self.params.rotation_only)))
        weight = nearest_orthogonal(moments.centred().yx, rotation=self.params.rotation_only)
        return Candidate({}, affine_map(weight, bias=moments.mean_y - weight @ moments.mean_x))


def nearest_orthogonal(matrix: NDArray[np.float64], *, rotation: bool = False) -> NDArray[np.float64]:
    """The matrix with orthonormal rows or columns whose inner product with `matrix` [D_y, D_x] is greatest.

    Args:
        matrix: Where it has no rank, any completion is as good and one is taken.
        rotation: Of a square matrix, with determinant +1.
    """
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    if rotation and np.linalg.slogdet(left)[0] * np.linalg.slogdet(right)[0] < 0:
        left[:, -1] *= -1  # the direction of the least singular value costs least
    product: NDArray[np.float64] = left @ right
    return product
