"""Learning compatible maps from cached features.

    from featstore_training import TrainConfig, losses, train

Names are loaded when first used, because they bring torch with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore_training.adapters import AdapterConfig, AdapterReport, adapter_infos, fit_adapter
    from featstore_training.config import TrainConfig
    from featstore_training.objectives import LossInfo, loss_info, losses
    from featstore_training.runner import TrainReport, train

__all__ = [
    "AdapterConfig",
    "AdapterReport",
    "LossInfo",
    "TrainConfig",
    "TrainReport",
    "adapter_infos",
    "fit_adapter",
    "loss_info",
    "losses",
    "train",
]

_HOMES = {
    "AdapterConfig": "adapters",
    "AdapterReport": "adapters",
    "LossInfo": "objectives",
    "TrainConfig": "config",
    "TrainReport": "runner",
    "adapter_infos": "adapters",
    "fit_adapter": "adapters",
    "loss_info": "objectives",
    "losses": "objectives",
    "train": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'featstore_training' has no attribute '{name}'")
    return getattr(importlib.import_module(f"featstore_training.{_HOMES[name]}"), name)
