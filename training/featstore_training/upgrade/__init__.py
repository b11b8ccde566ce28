"""Bringing an upgrade to the gallery: partial backfill, versions that are promoted and rolled back, and the plan."""

from featstore_training.upgrade.backfill import BackfillReport, backfill_order, run_backfill
from featstore_training.upgrade.plan import make_plan
from featstore_training.upgrade.plan_request import PlanRequest
from featstore_training.upgrade.promotion import (
    LIVE,
    GateReport,
    Promotion,
    UpgradePath,
    UpgradeReport,
    promote,
    rollback,
    run_upgrade,
)

__all__ = [
    "LIVE",
    "BackfillReport",
    "GateReport",
    "PlanRequest",
    "Promotion",
    "UpgradePath",
    "UpgradeReport",
    "backfill_order",
    "make_plan",
    "promote",
    "rollback",
    "run_backfill",
    "run_upgrade",
]
