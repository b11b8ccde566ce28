"""The decision report: on a team's own caches, what every cheap way to ship a new model gives and costs.

Each map is learned on some rows and measured on others, and every number is paired with today's (old queries on the old
gallery) over the same resamples of classes and queries, so that differences between ways have intervals too.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError

from featstore.errors import FeatstoreError, UsageError
from featstore.progress import SILENT, Progress
from featstore.report import Plan
from featstore.store import Store
from featstore.strict import Strict
from featstore.whole_files import write_whole
from featstore_training.upgrade.plan_request import PlanRequest
from featstore_training.upgrade.planner import Planner

__all__ = ["make_plan"]

_KEPT = "plan.json"


def make_plan(store: Store, request: PlanRequest, folder: Path, *, progress: Progress = SILENT) -> Plan:
    """Try every cheap way and say which to take.

    The same call again goes on where it stopped, and returns a finished plan at once.

    Args:
        store: The store.
        request: What to plan.
        folder: Where run folders and lists of rows go; made if needed.
        progress: Told of every step.

    Raises:
        UsageError: a budget that is no share, no rows to learn on, or filters that leave nothing.
        UnknownNameError: `only` names a map nobody knows.
        AlignmentError: the sets belong to different datasets.
    """
    if not 0 <= request.budget <= 1:
        raise UsageError(f"a budget of {request.budget:g} is no share of the images", hint="give 0 to 1, or 20%")
    planner = Planner(store, request, folder, progress)
    key = planner.key()
    kept = folder / _KEPT
    finished = _Finished.read(kept)
    if finished is not None and finished.key == key:
        progress.note(f"{folder} already holds this plan (cached)")
        return finished.plan
    plan = planner.plan()
    write_whole(kept, _Finished(key=key, plan=plan).model_dump_json(indent=1).encode())
    return plan


class _Finished(Strict):
    """A plan that was made, and of what."""

    what: ClassVar[str] = "finished plan"

    key: str
    plan: Plan

    @classmethod
    def read(cls, path: Path) -> _Finished | None:
        """What a folder holds; None for nothing, or something that another featstore wrote."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError, FeatstoreError):
            return None
