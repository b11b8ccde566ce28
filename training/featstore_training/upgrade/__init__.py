"""Bringing an upgrade to the gallery: partial backfill, versions that are promoted and rolled back, and the plan."""

from featstore_training.upgrade.backfill import BackfillReport, backfill_order, run_backfill

__all__ = ["BackfillReport", "backfill_order", "run_backfill"]
