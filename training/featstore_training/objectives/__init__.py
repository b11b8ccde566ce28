"""Training methods, one file each."""

from featstore_training.objectives.base import Batch, ClassSide, Objective
from featstore_training.objectives.bct import Bct
from featstore_training.objectives.independent import Independent
from featstore_training.objectives.l2 import L2
from featstore_training.objectives.odpp import Odpp
from featstore_training.objectives.registry import LossInfo, find_objective, losses, objective

__all__ = [
    "L2",
    "Batch",
    "Bct",
    "ClassSide",
    "Independent",
    "LossInfo",
    "Objective",
    "Odpp",
    "find_objective",
    "losses",
    "objective",
]
