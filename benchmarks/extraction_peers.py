"""What people use to turn images into features otherwise, each fed with the same network and preprocessing.

clip-retrieval 2.45 (https://github.com/rom1504/clip-retrieval) pins numpy below 2, so it is installed beside the environment.
Only its inference is imported: reader, runner and writer as they are, the encoder in the place of CLIP, and no logger, which
would be a process of its own.

    pip install --no-deps --target /tmp/peers clip-retrieval==2.45.0 && pip install fsspec pandas pyarrow
    PYTHONPATH=/tmp/peers python benchmarks/extraction.py
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from featstore.encoders import Encoder
from featstore.sources import decode_image, open_source

__all__ = ["BATCH", "clip_retrieval", "has_clip_retrieval", "plain_loop"]

BATCH = 32
_PACKAGE = "clip_retrieval"


def plain_loop(encoder: Encoder, spec: str, out: Path) -> None:
    """What people write: a Dataset, a DataLoader, a list of arrays, one `numpy.save`."""
    source = open_source(spec)

    class Images(Dataset[torch.Tensor]):
        def __init__(self) -> None:
            self.ids = [item.id for item in source.rows(lambda _: None)]

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.from_numpy(encoder.preprocess.apply(decode_image(source.read(self.ids[index]))))

    with torch.inference_mode():
        made = [encoder.module(batch).numpy() for batch in DataLoader(Images(), batch_size=BATCH)]
    np.save(out, np.concatenate(made))


def has_clip_retrieval() -> bool:
    """Whether it is on the path."""
    return importlib.util.find_spec(_PACKAGE) is not None


def clip_retrieval(encoder: Encoder, images: Path, count: int, out: Path) -> None:
    """Its runner over the first images of a folder; features of length 1 in float16, as it writes them."""
    _without_the_rest()
    from clip_retrieval.clip_inference.reader import FilesReader
    from clip_retrieval.clip_inference.runner import Runner
    from clip_retrieval.clip_inference.writer import NumpyWriter

    what = {"enable_text": False, "enable_image": True, "enable_metadata": False}

    def reader(_: Any) -> Any:
        return FilesReader(
            lambda keys: keys[:count],
            lambda image: torch.from_numpy(encoder.preprocess.apply(image)),
            None,
            str(images),
            batch_size=BATCH,
            num_prepro_workers=0,
            **what,
        )

    runner = Runner(
        reader,
        lambda: _Mapper(encoder),
        lambda partition: NumpyWriter(partition, str(out), output_partition_count=1, **what),
        lambda _: _Logger(),
        output_partition_count=1,
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # it pins memory for a GPU
        runner(0)


class _Mapper:
    """Its ClipMapper, with another network."""

    def __init__(self, encoder: Encoder) -> None:
        self._network = encoder.module

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            features = self._network(item["image_tensor"])
            features /= features.norm(dim=-1, keepdim=True)
        return {"image_embs": features.to(torch.float16).numpy(), "image_filename": item["image_filename"]}


class _Logger:
    def start(self) -> None: ...

    def end(self) -> None: ...

    def __call__(self, stats: dict[str, float]) -> None: ...


def _without_the_rest() -> None:
    """Let modules be imported without the `__init__` of their packages, which import all that clip-retrieval depends on."""
    for name in (_PACKAGE, f"{_PACKAGE}.clip_inference"):
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            package = ModuleType(name)
            package.__path__, package.__spec__ = list(spec.submodule_search_locations or []), spec
            sys.modules[name] = package
