"""Letting timm and transformers import torchvision beside a build of torch that torchvision's operators were not made for."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import torch

__all__ = ["allow_torchvision"]

# its Python code registers shape functions for these as soon as it is imported, and dies if they are not there
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[torch.library.Library] = []


def allow_torchvision() -> None:
    """Make `import torchvision` work where its compiled operators do not load (a CPU build of torch beside one for CUDA).

    Only the schemas of two operators for object detection are declared; transforms and models need no more. Does nothing
    where torchvision is not installed or imports by itself.
    """
    if "torchvision" in sys.modules or find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]  # as above
    _kept.append(library)
    import torchvision  # noqa: F401 - loaded here, for whoever imports it next
