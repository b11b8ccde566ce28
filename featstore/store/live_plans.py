"""Work under way on the feature sets of a dataset: plans that can still be committed, and who fills them."""

from __future__ import annotations

from dataclasses import dataclass

from featstore.store.features import features_log, plan_key, set_key
from featstore.store.heartbeats import Writer, writers
from featstore.store.records import FeatureSetVersion, Plan, fetch_if_there
from featstore.store.replacement import REPLACES
from featstore.store.store import Store

__all__ = ["COMPACTS", "LivePlan", "live_plans"]

# the sources of plans that write a set anew begin with this
COMPACTS = "compact"


@dataclass(frozen=True, slots=True)
class LivePlan:
    """Unfinished work on a feature set, and who is at it.

    Attributes:
        set: `DATASET/NAME`.
        plan: What is being filled.
        writers: Processes whose heartbeat is fresh.
    """

    set: str
    plan: Plan
    writers: tuple[Writer, ...]


def live_plans(store: Store, dataset: str, *, now: float | None = None) -> list[LivePlan]:
    """Work under way on the feature sets of a dataset: uncommitted plans with a fresh heartbeat.

    Args:
        store: The store.
        dataset: Its name.
        now: The time by the clock of the place; None takes this machine's.
    """
    found = []
    for name in store.files.names(f"features/{dataset}"):
        newest = features_log(store.files, dataset, name).latest()
        committed = {part.name for part in newest.segments} if newest else set()
        for segment in store.files.names(f"{set_key(dataset, name)}/plans"):
            key = plan_key(dataset, name, segment)
            present = [] if segment in committed else writers(store.files, key, now=now)
            plan = fetch_if_there(store.files, Plan, f"{key}/plan.json") if present else None
            if plan is not None and (
                newest is None or plan.source.startswith((COMPACTS, REPLACES)) or _fits(plan, newest)
            ):
                found.append(LivePlan(f"{dataset}/{name}", plan, tuple(present)))
    return found


def _fits(plan: Plan, newest: FeatureSetVersion) -> bool:
    """Whether a plan can still be committed after a version: its rows follow, numbered alike."""
    return plan.layout == newest.layout and plan.start >= newest.rows
