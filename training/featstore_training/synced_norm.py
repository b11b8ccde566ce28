"""Batch norm over the rows of all processes, on the CPU too (torch's own is for GPUs only).

B rows of this process, C channels.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SyncedBatchNorm", "synced"]

T = TypeVar("T", bound=nn.Module)


class SyncedBatchNorm(_BatchNorm):
    """Batch norm of [B, C, …] whose mean and variance are those of all processes' rows together.

    Weights and buffers have the names of the module it stands for, so that either loads the other's.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:
            raise ValueError(f"batch norm of {input.dim()} dimensions")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """As usual in eval mode; in training, statistics are summed over processes."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        over = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        wide = input.float()
        count = _summed(torch.tensor([input.numel() / input.shape[1]]))
        mean = _summed(wide.sum(dim=over)) / count
        centred = wide - mean.view(shape)
        variance = _summed(centred.square().sum(dim=over)) / count
        self._follow(mean.detach(), variance.detach(), float(count))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Running statistics, as torch keeps them: of the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / max(count - 1, 1), share)


def synced(module: T) -> T:
    """The module with every batch norm inside it replaced; weights and buffers are shared with the old ones."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            made = SyncedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            made._parameters, made._buffers = child._parameters, child._buffers
            setattr(module, name, made.train(child.training))
        else:
            synced(child)
    return module


class _Summed(torch.autograd.Function):
    """A sum over processes; so is the gradient, since every process's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        del ctx
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _summed(part: Tensor) -> Tensor:
    total: Tensor = _Summed.apply(part)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return total
