"""Training methods, one file each; `registry` knows them by name."""

from featstore_training.objectives import (  # noqa: F401 - importing a method registers it
    advbct,
    bank,
    bct,
    bt2,
    cores,
    independent,
    l2,
    lce,
    mixbct,
    nccl,
    ndpp,
    odpp,
    ract,
    simclr,
    unibct,
)
from featstore_training.objectives.base import Batch, ClassSide, Current, Objective
from featstore_training.objectives.registry import (
    LossInfo,
    find_objective,
    loss_info,
    losses,
    objective,
    objective_params,
)

__all__ = [
    "Batch",
    "ClassSide",
    "Current",
    "LossInfo",
    "Objective",
    "find_objective",
    "loss_info",
    "losses",
    "objective",
    "objective_params",
]
