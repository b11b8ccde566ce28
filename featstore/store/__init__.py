"""The store: datasets and feature sets as versioned, sharded Zarr v3 that reads at memory-map speed."""

from featstore.store.cache import CacheEntry, cache_files, clear_cache, list_cache
from featstore.store.columns import Categories, Column
from featstore.store.dataset import Dataset, NewRows
from featstore.store.features import FeatureSet, RowStatus, common_rows
from featstore.store.job import FeatureJob, plan_shard_rows
from featstore.store.materialise import Fetched
from featstore.store.names import SetRef, column_name, parse_set
from featstore.store.records import RowFailure, Version
from featstore.store.splits import parse_fractions, split_dataset
from featstore.store.store import Store
from featstore.store.verify import Problem, VerifyReport, verify

__all__ = [
    "CacheEntry",
    "Categories",
    "Column",
    "Dataset",
    "FeatureJob",
    "FeatureSet",
    "Fetched",
    "NewRows",
    "Problem",
    "RowFailure",
    "RowStatus",
    "SetRef",
    "Store",
    "VerifyReport",
    "Version",
    "cache_files",
    "clear_cache",
    "column_name",
    "common_rows",
    "list_cache",
    "parse_fractions",
    "parse_set",
    "plan_shard_rows",
    "split_dataset",
    "verify",
]
