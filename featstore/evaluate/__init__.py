"""Exact retrieval metrics, intervals and verdicts, from cached features alone.

`evaluate` works on feature sets of a store, `evaluate_arrays` on matrices. Q queries, G gallery rows, D width.
"""

from featstore.evaluate.arrays import PerQuery, evaluate_arrays
from featstore.evaluate.blocking import Blocking, parse_memory
from featstore.evaluate.evaluate import evaluate, evaluate_runs
from featstore.evaluate.gate import Gate, GateResult, parse_gate
from featstore.evaluate.metrics import METRICS, MetricInfo, metric_info
from featstore.evaluate.neighbours import Neighbours, top_k
from featstore.evaluate.orders import row_orders
from featstore.evaluate.protocols import PROTOCOLS, ProtocolInfo
from featstore.evaluate.records import Backfill, Cell, Changes, ClassChange, Distribution, Estimated, Flips
from featstore.evaluate.request import EvalRequest
from featstore.evaluate.result import EvalResult
from featstore.evaluate.scores import ScoreKind
from featstore.evaluate.statistics import Column, Estimate, Resampled, Run, bootstrap_means
from featstore.evaluate.templates import pool_templates
from featstore.evaluate.vectors import SetVectors

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Backfill",
    "Blocking",
    "Cell",
    "Changes",
    "ClassChange",
    "Column",
    "Distribution",
    "Estimate",
    "Estimated",
    "EvalRequest",
    "EvalResult",
    "Flips",
    "Gate",
    "GateResult",
    "MetricInfo",
    "Neighbours",
    "PerQuery",
    "ProtocolInfo",
    "Resampled",
    "Run",
    "ScoreKind",
    "SetVectors",
    "bootstrap_means",
    "evaluate",
    "evaluate_arrays",
    "evaluate_runs",
    "metric_info",
    "parse_gate",
    "parse_memory",
    "pool_templates",
    "row_orders",
    "top_k",
]
