"""The commands that a plan names: what a user types to do what was tried."""

from __future__ import annotations

import shlex

from featstore.store import FeatureSet
from featstore_training.upgrade.candidates import Candidate
from featstore_training.upgrade.plan_rows import PlanRows

__all__ = ["commands_of"]


def commands_of(
    candidate: Candidate,
    old: FeatureSet,
    new: FeatureSet,
    rows: PlanRows,
    gallery_where: tuple[str, ...],
    *partly: str,
) -> tuple[str, str]:
    """Learning a map with the published settings, and bringing it to the gallery.

    The gate of the upgrade looks at the rows that the plan measured, and the map is not learned on them.

    Args:
        candidate: The map.
        old: What the gallery is made of.
        new: The new model's features.
        rows: What is learned on, and what is measured.
        gallery_where: Further filters of the gallery that is measured.
        partly: Options that bring new features to a part of the gallery.
    """
    beside = [f"--side {reference.partition('@')[0]}" for reference in candidate.side]
    sets = f"--old {old.name} --new {new.name}"
    train = [f"featstore train --loss {candidate.loss} {sets}", *(beside if candidate.reads else [])]
    if candidate.new_run:
        train.append(f"--new-run {shlex.quote(str(candidate.new_run))}")
    if candidate.direction:
        train.append(f"--direction {candidate.direction}")
    train += _filters("--where", rows.fit_where)
    measured = [
        *_filters("--where", rows.where),
        *_filters("--query-where", rows.query_where),
        *_filters("--gallery-where", gallery_where),
    ]
    out = f"runs/{candidate.name}"
    option = "--map" if candidate.of_gallery else "--query-map"
    served = [f"featstore upgrade run {old.dataset.name}/gallery {sets} {option} {out}", *beside, *partly]
    return " ".join([*train, f"--out {out}"]), " ".join([*served, *measured])


def _filters(option: str, filters: tuple[str, ...]) -> list[str]:
    return [f"{option} {shlex.quote(text)}" for text in filters]
