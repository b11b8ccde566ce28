"""All rows of a feature set anew: a version that lists nothing of the one before it, in whatever space its rows lie.

Galleries go on in this way through an upgrade. Versions and tags name the old rows as before, so that whoever reads by a tag
sees nothing of it before the tag moves, and a moved tag moves back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from featstore.errors import ConflictError
from featstore.spaces import Space
from featstore.store.arrays import GroupWriter
from featstore.store.dataset import Dataset
from featstore.store.features import PART, features_log, set_key
from featstore.store.files import Files
from featstore.store.job import FeatureJob
from featstore.store.names import check_name
from featstore.store.plans import plan_segment
from featstore.store.records import MIXED_FORMAT, FeatureSetVersion, Mixture, VectorSegment
from featstore.store.store import Store

__all__ = ["REPLACES", "commit_replacement", "plan_replacement", "write_mixture"]

REPLACES = "replace"


def plan_replacement(
    store: Store, dataset: Dataset, name: str, space: Space, dtype: np.dtype[Any], *, rows: int, source: str
) -> FeatureJob:
    """Plan the first rows of a dataset as the whole content of a feature set, whatever it holds now.

    The same arguments give the same plan: a job that was interrupted, or whose version was made before, is found again.

    Args:
        store: The store.
        dataset: The rows.
        name: Name of the set, without the dataset's.
        space: Space of the features.
        dtype: float16, float32 or float64.
        rows: How many rows.
        source: What the features are made from.
    """
    check_name(name, "feature set")
    plan = plan_segment(dataset, name, space, dtype.name, stop=rows, source=f"{REPLACES} {source}")
    return FeatureJob.planned(store.files, plan)


def commit_replacement(
    store: Store,
    job: FeatureJob,
    provenance: dict[str, Any],
    *,
    parts: Sequence[Space] = (),
    part: NDArray[np.uint8] | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> FeatureSetVersion:
    """Seal a planned replacement and commit it as the next version; finding it as the newest already is success.

    Args:
        store: The store.
        job: All of its shards are published.
        provenance: What made it, as plain JSON.
        parts: The spaces of a mixed set.
        part: Which of them each row lies in, uint8 [rows].
        valid: Which rows have a feature, bool [rows]; None for all.

    Raises:
        IncompleteError: shards are still pending.
        ConflictError: the dataset was renumbered meanwhile.
    """
    segment = job.seal()
    mixture = None
    if part is not None:
        mixture = write_mixture(
            store.files, job, segment, parts, part, np.ones(len(part), bool) if valid is None else valid
        )
    plan = job.plan

    def build(newest: FeatureSetVersion | None, number: int) -> FeatureSetVersion | None:
        if newest is not None and (newest.segments, newest.mixture, newest.provenance) == (
            (segment,),
            mixture,
            provenance,
        ):
            return None
        if newest is not None and newest.layout > plan.layout:
            raise ConflictError(f"the rows of dataset {plan.dataset} were renumbered meanwhile", hint="run it again")
        return FeatureSetVersion(
            format=FeatureSetVersion.model_fields["format"].default if mixture is None else MIXED_FORMAT,
            dataset=plan.dataset,
            name=plan.name,
            number=number,
            parent=newest.number if newest else None,
            layout=plan.layout,
            rows=plan.stop,
            dtype=plan.dtype,
            space=plan.space,
            segments=(segment,),
            mixture=mixture,
            provenance=provenance,
        )

    return features_log(store.files, plan.dataset, plan.name).commit(build)


def write_mixture(
    files: Files,
    job: FeatureJob,
    segment: VectorSegment,
    parts: Sequence[Space],
    part: NDArray[np.uint8],
    valid: NDArray[np.bool_],
) -> Mixture:
    """Write which row lies in which space, as a group that no version lists yet.

    Args:
        files: The store's files.
        job: What the rows were written by.
        segment: The same, sealed: it holds all rows of the set.
        parts: The spaces.
        part: Which of them each row lies in, uint8 [rows].
        valid: Which rows have a feature, bool [rows].
    """
    plan = job.plan
    name = f"mixture-{blake3(f'{segment.name} {segment.digest}'.encode() + part.tobytes()).hexdigest(6)}"
    writer = GroupWriter(files, f"{set_key(plan.dataset, plan.name)}/segments/{name}")
    writer.array(PART, np.ascontiguousarray(part, np.uint8))
    counts = np.bincount(part[valid], minlength=len(parts))
    return Mixture(parts=tuple(parts), rows=tuple(counts.tolist()), name=name, digest=writer.seal())
