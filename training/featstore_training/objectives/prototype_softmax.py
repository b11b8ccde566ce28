"""Cross-entropy of new features against fixed class prototypes, shared by the prototype methods.

B batch, C classes, D width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["prototype_softmax"]


def prototype_softmax(
    feature: Tensor, label: Tensor, prototypes: Tensor, known: Tensor, scale: float, own: Tensor | None = None
) -> Tensor:
    """Mean over rows of −log softmax_y(γ·cos(fⁿ, p_c)), a scalar.

    Args:
        feature: [B, D], any norm.
        label: int64 [B].
        prototypes: Unit [C, D].
        known: Classes that have a prototype, bool [C]. Other classes are no columns, and their rows are left out of the
            mean; a batch of such rows only costs 0.
        scale: γ.
        own: Unit [C, D]; if given, a row's own column uses this prototype instead.
    """
    unit = functional.normalize(feature, dim=1)
    logits = scale * unit @ prototypes.T
    if own is not None:
        positive = scale * (unit * own[label]).sum(dim=1, keepdim=True)
        logits = logits.scatter(1, label[:, None], positive)
    logits = logits.masked_fill(~known, float("-inf"))
    counted = known[label]
    if not bool(counted.any()):
        return feature.sum() * 0
    return functional.cross_entropy(logits[counted], label[counted])
