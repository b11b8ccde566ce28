"""Computing encoders faster, and what that does to their features: measured on images of the source, recorded in the space."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.encoders import Encoder, Numerics, Preparation, has_compiler
from featstore.extract.inputs import prepare, read_inputs
from featstore.extract.outputs import Output, Target
from featstore.extract.process import single_thread
from featstore.extract.request import ExtractRequest
from featstore.progress import Progress
from featstore.sources import Place, Source

__all__ = ["FAST_COSINE", "tune"]

FAST_COSINE = 0.9999
_DIGITS = 7


def tune(
    source: Source,
    coming: Sequence[tuple[str, Place]],
    wanted: Mapping[str, Target],
    outputs: Mapping[str, Output],
    request: ExtractRequest,
    progress: Progress,
) -> tuple[dict[str, Target], dict[str, Output]]:
    """Targets and outputs whose encoders are computed as the request asks.

    `fast` takes bfloat16 and a compiled network, float32 and a compiled network where bfloat16 moves features too far, and
    leaves the encoder as it is where neither is faster. It says so.

    Args:
        source: Where the images are.
        coming: Some images, on which the difference is measured.
        wanted: What is made, by name of the set.
        outputs: The same with its encoders.
        request: With `fast` or `numerics`.
        progress: Told what was chosen.
    """
    targets, made = dict(wanted), dict(outputs)
    if request.numerics.plain and not request.fast:
        return targets, made
    encoders = {target.uri: outputs[name].encoder for name, target in wanted.items()}
    images = _images(source, coming, encoders)
    for uri, encoder in encoders.items():
        with single_thread():
            tuned = _tuned(encoder, images[uri], request, progress)
        for name, target in wanted.items():
            if target.uri == uri:
                targets[name] = target._replace(numerics=tuned.numerics)
                made[name] = Output(tuned, target.recipe)
    return targets, made


def _images(
    source: Source, coming: Sequence[tuple[str, Place]], encoders: Mapping[str, Encoder]
) -> dict[str, NDArray[np.float32]]:
    inputs = read_inputs(source, coming)
    everything = range(len(coming))
    prepared = prepare(inputs, {Preparation(encoder.preprocess, None): everything for encoder in encoders.values()})
    return {
        uri: prepared.arrays(Preparation(encoder.preprocess, None), everything)[1] for uri, encoder in encoders.items()
    }


def _tuned(encoder: Encoder, images: NDArray[np.float32], request: ExtractRequest, progress: Progress) -> Encoder:
    numerics = _fast(encoder, images, request.batch) if request.fast else request.numerics
    tuned = encoder.tuned(numerics, request.batch)
    if tuned is encoder or not len(images):
        return encoder
    batch = images[: request.batch]
    wide, plain = _timed(encoder, batch)
    cosines = _cosines(wide, tuned.encode(batch))
    faster = plain / _timed(tuned, batch)[1]
    measured = {
        "smallest": round(float(cosines.min()), _DIGITS),
        "mean": round(float(cosines.mean()), _DIGITS),
        "images": len(cosines),
    }
    if request.fast and (faster <= 1 or not cosines.min() >= FAST_COSINE):
        why = f"cosine {cosines.min():.5f}" if faster > 1 else f"{faster:.2f} × the speed"
        progress.note(f"{encoder.space.name} stays as it is: --fast would give {why}")
        return encoder
    tuned.space = tuned.space.model_copy(update={"numerics": {**tuned.space.numerics, "cosine to float32": measured}})
    how = "compiled " if numerics.compile else ""
    progress.note(
        f"{encoder.space.name} runs {how}in {numerics.autocast or 'float32'} at {faster:.1f} × the speed; "
        f"smallest cosine to float32 {cosines.min():.6f} on {len(cosines)} images"
    )
    return tuned


def _fast(encoder: Encoder, images: NDArray[np.float32], batch: int) -> Numerics:
    """The fastest numerics that keep features; what bfloat16 does to them is seen without compiling."""
    half = Numerics(autocast="bf16", channels_last=True)
    some = images[:batch]
    near = (
        bool(len(some)) and _cosines(encoder.encode(some), encoder.tuned(half, batch).encode(some)).min() >= FAST_COSINE
    )
    return Numerics(autocast="bf16" if near else None, channels_last=True, compile=has_compiler())


def _timed(encoder: Encoder, images: NDArray[np.float32]) -> tuple[NDArray[Any], float]:
    """Features, and seconds of CPU the second time: the first may compile."""
    encoder.encode(images)
    began = time.process_time()
    features = encoder.encode(images)
    return features, time.process_time() - began


def _cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    left, right = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    # two zero vectors are the same
    found: NDArray[np.float64] = np.where(
        norms > 0, (left * right).sum(axis=1) / np.maximum(norms, 1e-300), (left == right).all(axis=1)
    )
    return found
