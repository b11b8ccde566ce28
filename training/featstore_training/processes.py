"""Several processes that train one model (`torchrun`): each computes the new features of its share of a batch.

Every process draws the same batch, computes the features of its share, and gets the others' features by an explicit
gather. The loss is then computed by each of them on the whole batch, so that in-batch negatives, means over violating
rows, queues and prototypes are what they are in one process, whatever the objective; only backbone or map are divided.
Gradients of backbone or map are summed, those of head, bridge and objective are the same everywhere already.

B batch, D feature width.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from featstore.errors import MissingExtraError
from featstore_training.synced_norm import synced

__all__ = ["Processes", "join_processes", "started_processes"]


class Processes:
    """The processes of a run as one of them sees them; by default it is alone.

    Args:
        rank: Which of them this is.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._divided: DistributedDataParallel | None = None

    @property
    def leader(self) -> bool:
        """Whether this one writes files, validates and reports."""
        return self.rank == 0

    def prepared(self, module: nn.Module) -> nn.Module:
        """The module with batch norms that take their statistics over all processes."""
        return module if self.size == 1 else synced(module)

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of the rows [B] of a step; parts differ in length by one at most."""
        return rows.tensor_split(self.size)[self.rank]

    def features(self, module: nn.Module, inputs: Tensor, rows: int) -> Tensor:
        """New features [B, D] of all rows of a step, with gradient where this process computed them.

        Args:
            module: What computes them; always the same one.
            inputs: Of this process's share.
            rows: B.
        """
        if self.size == 1:
            out: Tensor = module(inputs)
            return out
        if self._divided is None:
            for parameter in module.parameters():
                # gradients of convolutions over one channel have odd strides, which the wrapper warns of
                parameter.register_hook(_strided_as_parameters)  # type: ignore[no-untyped-call]
            self._divided = DistributedDataParallel(module)
        own: Tensor = self._divided(inputs)
        return self._gathered(own, rows)

    def _gathered(self, own: Tensor, rows: int) -> Tensor:
        counts = [len(part) for part in torch.arange(rows).tensor_split(self.size)]
        sent = own.new_zeros(max(counts), own.shape[1])
        sent[: len(own)] = own.detach()
        parts = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(parts, sent)
        parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
        if own.requires_grad:
            # gradients of the shares are to be summed; the wrapper takes their mean
            own.register_hook(lambda gradient: gradient * self.size)  # type: ignore[no-untyped-call]
        parts[self.rank] = own
        return torch.cat(parts)

    @torch.no_grad()
    def follow_leader(self, modules: Iterable[nn.Module]) -> None:
        """Give all processes the leader's weights and buffers."""
        if self.size == 1:
            return
        for module in modules:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            dist.barrier()


def _strided_as_parameters(gradient: Tensor) -> Tensor:
    return gradient.flatten().view(gradient.shape)


def started_processes() -> int:
    """How many processes `torchrun` started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> Processes:
    """The processes that `torchrun` started, or this one alone.

    Raises:
        MissingExtraError: this torch cannot connect processes.
    """
    if started_processes() == 1:
        return Processes()
    if not dist.is_available() or not dist.is_gloo_available():
        raise MissingExtraError("torch with gloo", "train", "training in several processes")
    if not dist.is_initialized():
        dist.init_process_group("gloo")
        atexit.register(dist.destroy_process_group)
    return Processes(dist.get_rank(), dist.get_world_size())
