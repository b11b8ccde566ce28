"""Keeping a few inputs with a feature set, and encoding them again to see whether the encoder still gives the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featstore.errors import SpaceMismatchError
from featstore.extract.inputs import Inputs, prepare, read_inputs
from featstore.extract.isolate import encode_isolated
from featstore.extract.listing import Places
from featstore.extract.outputs import Output
from featstore.extract.process import single_thread
from featstore.progress import Progress
from featstore.sources import Source
from featstore.store import FeatureSet, Store
from featstore.store.canary import keep_inputs, read_canary, without_canary
from featstore.store.names import is_view

__all__ = ["CANARY_INPUTS", "TOLERANCE", "Drift", "check_numerics", "keep_canary", "measure_drift"]

CANARY_INPUTS = 16
# cosine distance; what makes features differ by more than this also moves neighbours in a gallery of millions
TOLERANCE = 1e-4
_CANDIDATES = 2  # so many inputs are looked at for each one that is kept
_MAX_BYTES = 4 << 20  # of all inputs of a segment together


@dataclass(frozen=True)
class Drift:
    """How features of kept inputs, encoded again, differ from the stored ones.

    Attributes:
        cosines: By id, the cosine of the stored and the new feature; NaN where one of them has no direction.
        failures: By id, why an input gives no feature any more.
    """

    cosines: Mapping[str, float]
    failures: Mapping[str, str]

    @property
    def worst(self) -> tuple[str, float] | None:
        """Id and cosine of the input whose feature moved farthest; None if no input could be encoded."""
        if not self.cosines:
            return None
        id_ = min(self.cosines, key=lambda id_: -2.0 if np.isnan(self.cosines[id_]) else self.cosines[id_])
        return id_, self.cosines[id_]

    def within(self, tolerance: float) -> bool:
        """Whether every input gives its stored feature, up to this cosine distance."""
        worst = self.worst
        return not self.failures and worst is not None and 1 - worst[1] <= tolerance


def keep_canary(store: Store, source: Source, reference: str, *, inputs: int = CANARY_INPUTS) -> None:
    """Keep inputs with the segments of a set that have no canary yet, until the set keeps enough.

    They are the smallest of twice as many, spread over the rows of the segment, at most 4 MiB in all; the bytes that are read
    now must be those that were encoded. A cached view keeps none: the set of the images as they are has the same encoder.

    Args:
        store: The store.
        source: Where the images are.
        reference: `DATASET/NAME`, made from this source.
        inputs: How many the set shall keep at most.
    """
    features = store.features(reference)
    if is_view(features.record.name):
        return
    lacking = without_canary(store.files, features.record)
    if not lacking:
        return
    left = inputs - len(read_canary(store.files, features))
    valid, places = features.valid_rows(), Places(features.dataset)
    for part in lacking:
        rows = valid[(valid >= part.start) & (valid < part.stop)]
        spread = np.unique(np.linspace(0, len(rows) - 1, _CANDIDATES * max(left, 0)).astype(np.int64))
        rows = rows[spread] if len(rows) else rows
        read = read_inputs(source, places.take(rows))
        same = (read.digests == features.input_digests(rows)).all(axis=1)
        found = [
            (int(row), data) for row, data, ok in zip(rows, read.data, same, strict=True) if ok and data is not None
        ]
        chosen: dict[int, bytes] = {}
        room = _MAX_BYTES
        for row, data in sorted(found, key=lambda entry: len(entry[1]))[: max(left, 0)]:
            if len(data) > room:
                break
            chosen[row] = data
            room -= len(data)
        keep_inputs(store.files, features.record, part, chosen)
        left -= len(chosen)


def measure_drift(store: Store, features: FeatureSet, output: Output) -> Drift | None:
    """Encode the inputs that a set keeps again; None if it keeps none.

    Args:
        store: The store.
        features: The set.
        output: What shall give the features that are stored, of the same width.
    """
    kept = read_canary(store.files, features)
    if not kept:
        return None
    ids = features.dataset.ids.take([entry.row for entry in kept])
    inputs = Inputs(ids, [entry.data for entry in kept], np.zeros((len(kept), 16), dtype=np.uint8))
    everything = range(len(kept))
    with single_thread():
        prepared = prepare(inputs, {output.preparation: everything})
        positions, arrays = prepared.arrays(output.preparation, everything)
        done, made, refused = encode_isolated(output.encoder, positions, arrays, output.room)
    failures = {**prepared.failed(output.preparation, everything), **refused}
    stored = features.gather([kept[k].row for k in done])
    cosines = _cosines(stored.astype(np.float64), made.astype(np.float64))
    return Drift(
        cosines={ids[k]: float(cosine) for k, cosine in zip(done, cosines, strict=True)},
        failures={ids[k]: f"{failure.stage}: {failure.error}" for k, failure in sorted(failures.items())},
    )


def check_numerics(store: Store, dataset: str, outputs: Mapping[str, Output], progress: Progress) -> None:
    """Before rows are added to sets: an encoder of the same identity, but other numerics, must give what they hold.

    Raises:
        SpaceMismatchError: it gives other features for the inputs that a set keeps.
    """
    for name, output in outputs.items():
        key = f"{dataset}/{name}"
        if is_view(name) or not store.has_features(key):
            continue
        features = store.features(key)
        changed = numerics_changed(features, output)
        drift = measure_drift(store, features, output) if changed else None
        if drift is None:
            continue
        if not drift.within(TOLERANCE):
            raise SpaceMismatchError(
                f"{features.ref} was made with other numerics ({'; '.join(changed)}), and they matter: {describe(drift)}",
                hint=f"encode with what made this set, or write to another name; `featstore doctor {key}` compares",
            )
        progress.note(
            f"{key} was begun with other numerics ({'; '.join(changed)}), which give the same: {describe(drift)}"
        )


def numerics_changed(features: FeatureSet, output: Output) -> list[str]:
    """What differs in how the features are computed, as `field: then → now`."""
    then, now = features.space.numerics, output.space.numerics
    fields = sorted(then.keys() | now.keys())
    return [f"{field}: {then.get(field)} → {now.get(field)}" for field in fields if then.get(field) != now.get(field)]


def describe(drift: Drift) -> str:
    """One line for people."""
    if drift.worst is None:
        return f"none of {len(drift.failures)} kept inputs can be encoded"
    id_, cosine = drift.worst
    failed = f", {len(drift.failures)} fail" if drift.failures else ""
    return f"the least cosine of {len(drift.cosines)} kept inputs is {cosine:.6f} ({id_}){failed}"


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the rows of two matrices [N, D], [N]; NaN where one is zero."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines: np.ndarray = (left * right).sum(axis=1) / norms
    return cosines
