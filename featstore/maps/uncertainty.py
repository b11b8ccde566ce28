"""How far from the truth a mapped row may be: a set of its own beside the mapped one.

A map that knows its uncertainty has a second map in its run folder, `RUN/uncertainty`, from what it puts out to one
number a row. `apply` stores these numbers as the set `NAME.uncertainty` beside `NAME`.
"""

from __future__ import annotations

from pathlib import Path

from featstore.errors import NotFoundError
from featstore.runs import CARD
from featstore.store import FeatureSet, Store, parse_set

__all__ = ["UNCERTAINTY", "uncertainty_name", "uncertainty_run", "uncertainty_set"]

UNCERTAINTY = "uncertainty"


def uncertainty_run(run: Path) -> Path | None:
    """The run folder of a map's uncertainty; None if it has none."""
    folder = run / UNCERTAINTY
    return folder if (folder / CARD).is_file() else None


def uncertainty_name(set_ref: str) -> str:
    """What the uncertainty of a mapped set is called: `DATASET/NAME.uncertainty`."""
    return f"{parse_set(set_ref).key}.{UNCERTAINTY}"


def uncertainty_set(store: Store, set_ref: str) -> FeatureSet:
    """The uncertainty of a mapped set: float32 [N, 1], row-aligned; the greater, the less is the mapped row to be trusted.

    It is the logarithm of a variance: only its order means anything without the card of the run.

    Raises:
        NotFoundError: the map of this set has none.
    """
    name = uncertainty_name(set_ref)
    if not store.has_features(name):
        raise NotFoundError(
            f"{set_ref} has no uncertainty: there is no set {name}",
            hint="`featstore train --loss fastfill …` learns one, and `featstore apply` stores it",
        )
    return store.features(name)
