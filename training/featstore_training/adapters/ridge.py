"""Ridge regression from one space to another, in closed form for any strength."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from featstore.strict import Strict
from featstore_training.adapters.affine import affine_map
from featstore_training.adapters.base import Adapter, Candidate, Choose, Pairs, Work
from featstore_training.adapters.moments import Moments

__all__ = ["Ridge", "RidgeParams", "RidgePath", "Strengths"]

Strengths = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class RidgeParams(Strict):
    """Settings of `ridge`.

    Attributes:
        strengths: Values of s to choose from; the penalty is s times the mean variance of an input component, so that it
            means the same for every width and number of rows.
        adjoint: Regress the inputs on the targets instead, and take the transposed solution.
    """

    what: ClassVar[str] = "params of ridge"

    strengths: Strengths = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
    adjoint: bool = False


class Ridge(Adapter):
    """min over W, b of Σ‖W x̂ + b − ŷ‖² + λ‖W‖², λ = s · tr(Σ (x̂ − x̄)(x̂ − x̄)ᵀ)/D_x (Hoerl and Kennard, 1970).

    The adjoint is x → Vᵀ x̂ for the solution V of the other direction, y → x. Since ⟨Vᵀ x, y⟩ = ⟨x, V y⟩, queries that go
    through Vᵀ rank rows y as if these had gone through V, up to the lengths of what V makes of them. V divides by the
    scatter of the y, so directions in which the rows that are searched are noise count less; W divides by that of the x.
    """

    name = "ridge"
    summary = "regularised affine map; closed form, strength chosen on held-out retrieval"
    paper = "Hoerl and Kennard, 1970"
    Params = RidgeParams
    params: RidgeParams
    forms: ClassVar = {"adjoint": {"adjoint": True}}

    def fit(self, pairs: Pairs, choose: Choose, work: Work) -> Candidate:
        """One pass over the pairs, one eigendecomposition for all strengths."""
        del work
        adjoint = self.params.adjoint
        path = RidgePath(pairs.reversed().moments() if adjoint else pairs.moments())

        def candidates() -> Iterator[Candidate]:
            for strength in sorted(self.params.strengths, reverse=True):
                weight = path.weight(strength)
                module = affine_map(weight.T) if adjoint else affine_map(weight, bias=path.bias(weight))
                yield Candidate({"strength": strength}, module)

        return choose(candidates())


class RidgePath:
    """Ridge solutions of every strength.

    Args:
        moments: Of the pairs, as they are.
    """

    def __init__(self, moments: Moments) -> None:
        centred = moments.centred()
        values, self._vectors = np.linalg.eigh(centred.xx)
        self._values = np.maximum(values, 0.0)  # a variance is not negative, rounding is
        self._turned = centred.yx @ self._vectors
        self._moments = moments

    def weight(self, strength: float) -> NDArray[np.float64]:
        """W, [D_y, D_x]."""
        weight: NDArray[np.float64] = (self._turned / self._penalised(strength)) @ self._vectors.T
        return weight

    def bias(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """The b that puts the mean of the inputs on the mean of the targets, [D_y]."""
        bias: NDArray[np.float64] = self._moments.mean_y - weight @ self._moments.mean_x
        return bias

    def fitted(self, strength: float) -> NDArray[np.float64]:
        """W (Σ (x − x̄)(x − x̄)ᵀ + λI) Wᵀ, [D_y, D_y]: what of the targets' scatter the solution explains."""
        explained: NDArray[np.float64] = (self._turned / self._penalised(strength)) @ self._turned.T
        return explained

    def _penalised(self, strength: float) -> NDArray[np.float64]:
        # with inputs that are all alike there is nothing to scale by, and no weight to be found either
        penalised: NDArray[np.float64] = self._values + (strength * self._values.mean() or 1.0)
        return penalised
