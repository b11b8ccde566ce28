"""One number for a chain of generations: AC, BC, FC and AM of a compatibility matrix.

C [T, T] is lower triangular: C_ij is a metric with queries of generation i against a gallery of generation j ≤ i, so the
diagonal holds the self-tests. Definitions of Biondi et al. (CoReS 2021, CL2R 2023); the authors' own repositories differ
in whether a tie passes, so both readings have a name. Every function takes [..., T, T] and returns [...].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["average_compatibility", "average_metric", "backward_compatibility", "forward_compatibility"]


def average_compatibility(matrix: NDArray[np.float64], *, strict: bool = True) -> NDArray[np.float64]:
    """AC: the share of cross-tests C_ij (i > j) that pass against C_jj, the gallery's own model.

    Args:
        matrix: [..., T, T], T at least 2.
        strict: Whether a tie fails (the criterion of Shen et al., and IAM-CL2R's code) or passes (CL2R's and CoReS's).
    """
    own = np.diagonal(matrix, axis1=-2, axis2=-1)[..., None, :]
    passed = matrix > own if strict else matrix >= own
    below = np.tri(matrix.shape[-1], k=-1, dtype=bool)
    return np.asarray(passed[..., below].mean(axis=-1))


def backward_compatibility(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """BC = (1/(T−1)) Σ_{i<T} (C_Ti − C_ii): what the newest queries gain on every older gallery."""
    own = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.asarray((matrix[..., -1, :-1] - own[..., :-1]).mean(axis=-1))


def forward_compatibility(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """FC = (1/(T−1)) Σ_{i≥2} (C_{i,i−1} − C_ii): what each model loses on the gallery before its own."""
    own = np.diagonal(matrix, axis1=-2, axis2=-1)
    previous = np.diagonal(matrix, offset=-1, axis1=-2, axis2=-1)
    return np.asarray((previous - own[..., 1:]).mean(axis=-1))


def average_metric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """AM: the mean of the lower triangle with the diagonal. Zeros count (public code drops them)."""
    return np.asarray(matrix[..., np.tri(matrix.shape[-1], dtype=bool)].mean(axis=-1))
