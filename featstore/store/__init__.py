"""The store: datasets and feature sets as versioned, sharded Zarr v3 that reads at memory-map speed."""

from featstore.store.alignment import align, common_rows
from featstore.store.cache import CacheEntry, cache_files, clear_cache, list_cache
from featstore.store.columns import Categories, Column
from featstore.store.compaction import CompactReport, compact
from featstore.store.dataset import Dataset, NewRows
from featstore.store.declarations import Declaration
from featstore.store.description import SetDescription, describe
from featstore.store.difference import Difference, compare
from featstore.store.features import FeatureSet, RowStatus
from featstore.store.garbage import DEFAULT_GRACE, Garbage, GarbageReport, collect_garbage
from featstore.store.job import FeatureJob
from featstore.store.live_plans import LivePlan, live_plans
from featstore.store.materialise import Fetched
from featstore.store.mending import Replaced
from featstore.store.names import SetRef, column_name, parse_set, view_name
from featstore.store.plans import plan_shard_rows
from featstore.store.policies import ZeroRows
from featstore.store.publisher import in_background, publisher
from featstore.store.records import RowFailure, TagEntry, Version
from featstore.store.repair import RepairReport, repair
from featstore.store.replacement import commit_replacement, plan_replacement
from featstore.store.restore import restore_marker
from featstore.store.retry import RetryReport, retry_failed
from featstore.store.reuse import Copied, DigestIndex
from featstore.store.splits import parse_fractions, split_dataset
from featstore.store.store import Store
from featstore.store.usage import Usage, usage
from featstore.store.verify import Problem, VerifyReport, verify

__all__ = [
    "DEFAULT_GRACE",
    "CacheEntry",
    "Categories",
    "Column",
    "CompactReport",
    "Copied",
    "Dataset",
    "Declaration",
    "Difference",
    "DigestIndex",
    "FeatureJob",
    "FeatureSet",
    "Fetched",
    "Garbage",
    "GarbageReport",
    "LivePlan",
    "NewRows",
    "Problem",
    "RepairReport",
    "Replaced",
    "RetryReport",
    "RowFailure",
    "RowStatus",
    "SetDescription",
    "SetRef",
    "Store",
    "TagEntry",
    "Usage",
    "VerifyReport",
    "Version",
    "ZeroRows",
    "align",
    "cache_files",
    "clear_cache",
    "collect_garbage",
    "column_name",
    "commit_replacement",
    "common_rows",
    "compact",
    "compare",
    "describe",
    "in_background",
    "list_cache",
    "live_plans",
    "parse_fractions",
    "parse_set",
    "plan_replacement",
    "plan_shard_rows",
    "publisher",
    "repair",
    "restore_marker",
    "retry_failed",
    "split_dataset",
    "usage",
    "verify",
    "view_name",
]
