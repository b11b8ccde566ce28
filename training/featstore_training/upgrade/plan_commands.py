"""The commands that a plan names: what a user types to do what was tried."""

from __future__ import annotations

import shlex

from featstore.store import FeatureSet
from featstore_training.upgrade.candidates import Candidate

__all__ = ["commands_of"]


def commands_of(candidate: Candidate, old: FeatureSet, new: FeatureSet, *partly: str) -> tuple[str, str]:
    """Learning a map with the published settings, and bringing it to the gallery.

    Args:
        candidate: The map.
        old: What the gallery is made of.
        new: The new model's features.
        partly: Options that bring new features to a part of the gallery.
    """
    beside = [f"--side {reference.partition('@')[0]}" for reference in candidate.side]
    sets = f"--old {old.name} --new {new.name}"
    train = [f"featstore train --loss {candidate.loss} {sets}", *(beside if candidate.reads else [])]
    if candidate.new_run:
        train.append(f"--new-run {shlex.quote(str(candidate.new_run))}")
    if candidate.direction:
        train.append(f"--direction {candidate.direction}")
    out = f"runs/{candidate.name}"
    option = "--map" if candidate.of_gallery else "--query-map"
    served = [f"featstore upgrade run {old.dataset.name}/gallery {sets} {option} {out}", *beside, *partly]
    return " ".join([*train, f"--out {out}"]), " ".join(served)
