"""How a network is computed: in which precision, memory layout, and whether compiled. Never part of a space's identity."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

__all__ = ["Numerics", "has_compiler", "network_of"]

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Network = Callable[[Tensor], Any]


class Numerics(BaseModel):
    """Choices that change features in their last digits only.

    Attributes:
        autocast: Lower precision where torch holds it for safe.
        channels_last: Convolutions over channels-last memory, which CPUs with vector units prefer.
        compile: torch.compile with frozen weights; needs a C++ compiler, and a minute for a network of 5 million weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    autocast: Literal["bf16", "fp16"] | None = None
    channels_last: bool = False
    compile: bool = False

    @property
    def plain(self) -> bool:
        """Whether the network is computed as it is."""
        return self == Numerics()

    def described(self) -> dict[str, Any]:
        """What a space records."""
        return {
            "engine": f"torch {'compiled, weights frozen' if self.compile else 'eager'}, cpu",
            "autocast": self.autocast or "off",
            "channels last": self.channels_last,
        }


def has_compiler() -> bool:
    """Whether there is a C++ compiler for torch.compile."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)


def network_of(module: nn.Module, numerics: Numerics, batch: int) -> Network:
    """A function from images [B, C, H, W] to the network's output.

    Args:
        module: In evaluation mode; its weights are laid out anew for `channels_last`.
        numerics: How.
        batch: A compiled network sees exactly so many images at once: other numbers are filled up, or cut.
    """
    if numerics.plain:
        return _inferring(module)
    if numerics.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run: Any = _compiled(module) if numerics.compile else module

    def once(images: Tensor) -> Tensor:
        if numerics.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = _TYPES.get(numerics.autocast or "")
        # no_grad, because tensors of inference mode would be compiled for anew
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
            output: Tensor = run(images)
        return output

    if not numerics.compile:
        return once

    def in_batches(images: Tensor) -> Tensor:
        from torch._inductor import config

        parts = []
        with config.patch(freezing=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own parts while it compiles
            for start in range(0, len(images), batch):
                part = images[start : start + batch]
                full = (
                    torch.cat([part, part.new_zeros(batch - len(part), *part.shape[1:])]) if len(part) < batch else part
                )
                parts.append(once(full)[: len(part)])
        return torch.cat(parts)

    return in_batches


def _compiled(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own parts while it imports the compiler
        from torch._inductor import config  # noqa: F401

        return torch.compile(module, dynamic=False)


def _inferring(module: nn.Module) -> Network:
    def run(images: Tensor) -> Any:
        with torch.inference_mode():
            return module(images)

    return run
