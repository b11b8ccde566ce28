"""Classification of new features by old class prototypes: the term that all prototype methods share, and their base.

B batch, C classes, D old width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from featstore.strict import Strict
from featstore_training.cross_entropy import class_cross_entropy
from featstore_training.heads import Head
from featstore_training.objectives.bank_term import Bank, BankParams
from featstore_training.objectives.base import Batch, ClassSide, Need, Objective
from featstore_training.objectives.mixing import Mixing, MixParams
from featstore_training.prototypes import Prototypes

__all__ = ["PrototypeObjective", "PrototypeParams", "WhitenParams", "prototype_softmax"]


class WhitenParams(Strict):
    """Prototypes turned by the within-class scatter S of the old features, p ∝ S^(−power)·p.

    Attributes:
        power: 1 points queries where classes of equal scatter are told apart best; 0 changes nothing.
        shrinkage: How much of S is replaced by its mean variance.
    """

    what: ClassVar[str] = "params.whiten"

    power: float = Field(default=1.0, ge=0, le=1)
    shrinkage: float = Field(default=0.3, ge=0, le=1)


class PrototypeParams(Strict):
    """Settings that every prototype method has.

    Attributes:
        weight: λ.
        scale: γ of the prototype softmax; None takes the head's.
        means: `unit` compares with normalised class means; `raw` leaves their norms, below 1 for scattered classes.
        whiten: Turn the prototypes by the within-class scatter; null does not.
        mix: Mix old features into the classification, as `mixbct` does; null does not.
        bank: Add the listwise term of `bank`; null does not.
    """

    weight: float = Field(default=1.0, ge=0)
    scale: float | None = Field(default=None, gt=0)
    means: Literal["unit", "raw"] = "unit"
    whiten: WhitenParams | None = None
    mix: MixParams | None = None
    bank: BankParams | None = None


class PrototypeObjective(Objective):
    """ℒ = CE(head(fⁿ), y) + λ·CE(γ·cos(fⁿ, p_c), y) [+ bank], with prototypes that a method may move.

    The prototypes come from the old features of the *new* training images, so classes the old model never saw have one
    as well.
    """

    needs = frozenset({"label", "prototype"})
    prototype: Tensor
    known: Tensor

    def __init__(self, params: Any, side: ClassSide) -> None:
        super().__init__()
        self.settings: PrototypeParams = params
        prototypes = side.required_prototypes()
        # derived from cached rows alone, so it is computed again on resume rather than saved
        self._scatter = side.required_old().scatter(prototypes) if params.whiten else None
        self.register_buffer("prototype", self.directions(prototypes))
        self.register_buffer("known", prototypes.known)
        self._mixing = Mixing(params.mix, side.required_old()) if params.mix else None
        self._bank = Bank(params.bank, side.required_old()) if params.bank else None

    @classmethod
    def needs_with(cls, params: Any, *, side: bool = False) -> frozenset[Need]:
        """Mixing needs old features row by row."""
        del side
        return cls.needs | ({"old_feature"} if params.mix else frozenset())

    @property
    def mixer(self) -> Mixing | None:
        """Whatever `params.mix` says."""
        return self._mixing

    @property
    def weight(self) -> float:
        """λ as it stands now."""
        return self.settings.weight

    def directions(self, prototypes: Prototypes) -> Tensor:
        """What the softmax compares with, [C, D]: class means normalised, turned or raw as the settings say."""
        directions, whiten = prototypes.unit(), self.settings.whiten
        if whiten and self._scatter is not None:
            directions = prototypes.whitened(self._scatter, whiten.shrinkage, whiten.power)
        if self.settings.means == "raw":
            directions = directions * prototypes.means.norm(dim=1, keepdim=True)
        return directions

    def columns(self) -> tuple[Tensor, Tensor | None]:
        """Prototypes of the softmax [C, D], and those a row's own column uses instead, None for the same."""
        return self.prototype, None

    def loss(self, batch: Batch, head: Head) -> dict[str, Tensor]:
        """Terms `classification`, `influence` and, with a bank, `bank`."""
        terms = {
            "classification": self.classification(batch, head),
            "influence": self.weight * self.influence(batch, head),
        }
        if self._bank:
            terms["bank"] = self._bank.term(batch)
        return terms

    def influence(self, batch: Batch, head: Head) -> Tensor:
        """The prototype softmax, without its weight."""
        columns, own = self.columns()
        scale = self.settings.scale or head.scale
        return prototype_softmax(batch.compared, batch.label, columns, self.known, scale, own)


def prototype_softmax(
    feature: Tensor, label: Tensor, prototypes: Tensor, known: Tensor, scale: float, own: Tensor | None = None
) -> Tensor:
    """Mean over rows of −log softmax_y(γ·⟨f̂ⁿ, p_c⟩), a scalar.

    Args:
        feature: [B, D], any norm.
        label: int64 [B].
        prototypes: [C, D].
        known: Classes that have a prototype, bool [C]. Other classes are no columns, and their rows are left out of the
            mean; a batch of such rows only costs 0.
        scale: γ.
        own: [C, D]; if given, a row's own column uses this prototype instead.
    """
    counted = known[label]
    if not bool(counted.any()):
        return feature.sum() * 0
    query = scale * functional.normalize(feature[counted], dim=1)
    label = label[counted]
    positive = None if own is None else (query * own[label]).sum(dim=1)
    return class_cross_entropy(query, prototypes, label, own=positive, known=known).mean()
