"""Maps between the spaces of two models that exist already, fitted on rows that both have encoded; one file a method."""

from featstore_training.adapters.config import AdapterConfig
from featstore_training.adapters.registry import adapter_infos, is_adapter
from featstore_training.adapters.runner import AdapterReport, fit_adapter

__all__ = ["AdapterConfig", "AdapterReport", "adapter_infos", "fit_adapter", "is_adapter"]
