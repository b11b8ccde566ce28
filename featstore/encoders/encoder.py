"""An encoder: a network with its preprocessing, and the space its features lie in.

Dimension legend: B batch, C channels, H and W pixels, D feature width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor, nn

from featstore.encoders.numerics import Numerics, network_of
from featstore.encoders.preprocess import Preprocess
from featstore.errors import AlignmentError, NonFiniteError, UsageError
from featstore.spaces import Space

__all__ = ["Encoder", "weights_digest"]

# relative difference allowed between an image encoded alone and in a batch: kernels differ by batch size
_BATCH_TOLERANCE = {"float16": 5e-3, "float32": 1e-4}


class Encoder:
    """Images in, features out. The module is put into evaluation mode and frozen there.

    Args:
        module: Maps float32 [B, C, H, W] to floating point [B, D].
        preprocess: How images become its input.
        architecture: Name of the kind of network; a registered one can be saved as a run folder.
        config: Config of that architecture, plain JSON.
        name: What people call the space; default: the architecture.
        normalise: Whether features are scaled to length 1.
        compatible_with: Digests of spaces whose features may be compared with these (a compatible training declares them).
        weights: Digest of the weights; None takes that of the module's state. For modules that keep them elsewhere.
        engine: What runs the network, recorded in the space's numerics.

    Attributes:
        width: Components of a feature (D).
        dtype: Type of the features: float16 if the network gives float16, else float32 (bfloat16 fits into float32).
        space: What makes its features comparable.
        numerics: How the network is computed.

    Raises:
        AlignmentError: the output is not [B, D].
        UsageError: the output is not a tensor of floating point numbers.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Preprocess,
        *,
        architecture: str,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        normalise: bool = False,
        compatible_with: Sequence[str] = (),
        weights: str | None = None,
        engine: str = "torch eager, cpu",
    ) -> None:
        self.module = module.eval().requires_grad_(requires_grad=False)
        self.preprocess = preprocess
        self.architecture = architecture
        self.config = dict(config or {})
        self.normalise = normalise
        self.numerics = Numerics()
        self._network = network_of(self.module, self.numerics, 1)
        shape = (1, preprocess.channels, preprocess.size, preprocess.size)
        output = self._forward(np.zeros(shape, dtype=np.float32))
        self.width = output.shape[1]
        self.dtype: np.dtype[Any] = np.dtype("float16" if output.dtype == torch.float16 else "float32")
        self.space = Space(
            name=name or architecture,
            width=self.width,
            identity={
                "kind": "encoder",
                "architecture": architecture,
                "config": self.config,
                "weights": weights_digest(module) if weights is None else weights,
                "preprocess": preprocess.model_dump(mode="json"),
                "normalise": normalise,
            },
            numerics={
                "engine": engine,
                "dtype": str(output.dtype).removeprefix("torch."),
                "torch": torch.__version__,
                "pillow": PIL.__version__,
            },
            compatible_with=tuple(compatible_with),
        )

    def __repr__(self) -> str:
        return f"Encoder({self.space.name}, {self.width}×{self.dtype.name})"

    def encode(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Features [B, D] in `dtype` of preprocessed images, float32 [B, C, H, W]; unit norm only if `normalise`.

        A row may hold NaN or infinity if the network gives that; the caller decides what becomes of it.
        """
        output = self._forward(images)
        if self.normalise:
            # in float32, so that a float16 sum of squares does not overflow; a zero vector becomes NaN, not a direction
            wide = output.float()
            output = (wide / wide.norm(dim=1, keepdim=True)).to(output.dtype)
        wanted = torch.float16 if self.dtype == np.float16 else torch.float32
        array: NDArray[Any] = output.to(wanted).numpy()
        return array

    def tuned(self, numerics: Numerics, batch: int) -> Encoder:
        """The same encoder computed otherwise; its space differs in the recorded numerics only.

        Args:
            numerics: How. A network that torch does not compute itself (ONNX) stays as it is.
            batch: Images that a compiled network sees at once.
        """
        if numerics.plain or not any(True for _ in self.module.parameters()):
            return self
        other = copy.copy(self)
        other.numerics = numerics
        other._network = network_of(self.module, numerics, batch)
        other.space = self.space.model_copy(update={"numerics": {**self.space.numerics, **numerics.described()}})
        return other

    def check(self, images: NDArray[np.float32]) -> None:
        """Encode some images in several ways and compare.

        Args:
            images: At least one preprocessed image, float32 [B, C, H, W].

        Raises:
            NonFiniteError: no image gives a finite feature.
            UsageError: the same batch gives other features the second time, or an image alone gives another feature than
                in a batch.
        """
        first = self.encode(images)
        finite = np.isfinite(first).all(axis=1)
        if not finite.any():
            raise NonFiniteError(
                f"the encoder {self.space.name} gives NaN or infinity for every one of {len(images)} images",
                hint="check its weights and preprocessing",
            )
        if not np.array_equal(first, self.encode(images), equal_nan=True):
            raise UsageError(
                f"the encoder {self.space.name} gives other features when it sees the same images again",
                hint="look for dropout, noise or random cropping that stays on in evaluation mode",
            )
        row = int(np.flatnonzero(finite)[-1])
        alone = self.encode(images[row : row + 1])[0].astype(np.float64)
        inside = first[row].astype(np.float64)
        gap = float(np.linalg.norm(alone - inside) / max(float(np.linalg.norm(inside)), 1e-30))
        if not gap <= _BATCH_TOLERANCE["float16" if self.numerics.autocast else self.dtype.name]:
            raise UsageError(
                f"the encoder {self.space.name} gives an image another feature in a batch than alone "
                f"(relative difference {gap:.2g})",
                hint="features must not depend on their neighbours; look for batch statistics in evaluation mode",
            )

    def _forward(self, images: NDArray[np.float32]) -> Tensor:
        """The raw output [B, D]."""
        if self.module.training:
            self.module.eval()  # someone else's code may have switched it back since
        output = self._network(torch.from_numpy(images))
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"the encoder {self.architecture} gives {kind}, not a tensor of floating point numbers",
                hint="wrap the network so that it returns its features [B, D]",
            )
        if output.ndim != 2 or len(output) != len(images):
            raise AlignmentError(
                f"the encoder {self.architecture} gives shape {tuple(output.shape)} for {len(images)} images",
                hint="wrap the network so that it returns its features [B, D]; pool maps [B, D, H, W] first",
            )
        return output


def weights_digest(module: nn.Module) -> str:
    """blake3, hex, over the names, types, shapes and bytes of all parameters and buffers in sorted order."""
    digest = blake3()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, Tensor):
            raise UsageError(f"the state of this network holds '{name}', which is not a tensor")
        dense = value.detach().cpu().contiguous()
        digest.update(f"{name} {dense.dtype} {tuple(dense.shape)}\n".encode())
        digest.update(dense.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
