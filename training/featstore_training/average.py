"""An exponential moving average of weights, which is often a better model than the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """Follows the weights and buffers of some modules: a ← d·a + (1 − d)·w after each step.

    In step t counted from 0 the decay is min(d, (1 + t)/(10 + t)), so that the random start is soon forgotten. Whole
    numbers (counts of batches) are copied.

    Args:
        decay: d.
        modules: By name.

    Attributes:
        weights: a, `NAME.…`; saved with the resumable state.
    """

    def __init__(self, decay: float, modules: Mapping[str, nn.Module]) -> None:
        self._decay = decay
        self._modules = modules
        self.weights: dict[str, Tensor] = {key: tensor.detach().clone() for key, tensor in self._present()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take in the weights after a step counted from 0 over the run."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for key, tensor in self._present():
            if tensor.is_floating_point():
                self.weights[key].lerp_(tensor, 1 - decay)
            else:
                self.weights[key].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The modules have the averaged weights for a while."""
        present = {key: tensor.detach().clone() for key, tensor in self._present()}
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(present)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for key, tensor in self._present():
            tensor.copy_(weights[key])

    def _present(self) -> Iterator[tuple[str, Tensor]]:
        for name, module in self._modules.items():
            for key, tensor in module.state_dict().items():
                yield f"{name}.{key}", tensor
