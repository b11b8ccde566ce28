import re

import numpy as np
import pytest

from featstore.errors import FeatstoreError, UnknownNameError, UsageError
from featstore.evaluate.gate import judge, parse_gate
from featstore.evaluate.statistics import Column, Resampled, Run

CROSS, OLD, NEW = Column("new/old", "map"), Column("old/old", "map"), Column("new/new", "recall@1")


def resampled(cross_minus_old=0.2, resamples=400):
    rng = np.random.default_rng(0)
    old = rng.normal(0.5, 0.1, 200)
    values = np.stack([old + cross_minus_old + 0.05 * rng.normal(size=200), old, np.full(200, 0.9)], axis=1)
    return Resampled.of([CROSS, OLD, NEW], [Run(values, np.arange(200))], resamples=resamples, seed=0)


@pytest.mark.parametrize(
    ("text", "weights", "constant", "comparison"),
    [
        ("new/old.map > old/old.map", {CROSS: 1, OLD: -1}, 0, ">"),
        ("new/new.recall@1>=0.9", {NEW: 1}, -0.9, ">="),
        ("new/old.map >= 0.98 * old/old.map", {CROSS: 1, OLD: -0.98}, 0, ">="),
        ("new/old.map - old/old.map > 0.01 + .02", {CROSS: 1, OLD: -1}, -0.03, ">"),
        ("-old/old.map + 1 < 2*old/old.map", {OLD: -3}, 1, "<"),
        ("query/gallery.r-precision <= 1", {Column("query/gallery", "r-precision"): 1}, -1, "<="),
        ("reference.map > 0", {Column("reference", "map"): 1}, 0, ">"),
        ("new/mapped-old.mrr > 0", {Column("new/mapped-old", "mrr"): 1}, 0, ">"),
    ],
)
def test_what_a_gate_means(text, weights, constant, comparison):
    gate = parse_gate(text)
    assert gate.weights == weights
    assert gate.constant == pytest.approx(constant)
    assert gate.comparison == comparison
    assert gate.metrics == tuple(dict.fromkeys(column.metric for column in weights))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at the end: expected a metric of a cell"),
        ("new/old.map", "at the end: expected one of > >="),
        ("new/old.map = old/old.map", "at '= old/old.map': expected one of > >="),
        ("new/old.map > ", "at the end: expected a metric of a cell, such as new/old.map, or a number"),
        ("new/old.map > 0.98*", "at the end: expected a metric of a cell, such as new/old.map$"),
        ("new/old > old/old", "at 'new/old > old/old': expected a metric"),
        ("new/old.map > old/old.map > 0", "at '> 0': expected the end"),
        ("new/old.map*2 > 1", r"at '\*2 > 1': expected one of"),
        ("2 > 1", "names no cell"),
        ("__import__('os').system('true') > 1", "expected a metric of a cell"),
        ("new/old.recall@0 > 1", "positive whole number"),
    ],
)
def test_what_cannot_be_read_says_where_and_what_is_expected(text, message):
    with pytest.raises(UsageError) as caught:
        parse_gate(text)
    assert re.search(message, caught.value.message), caught.value.message
    assert "for example" in caught.value.hint


def test_unknown_metrics_and_cells_are_named():
    with pytest.raises(UnknownNameError, match="no metric called 'mapp'"):
        parse_gate("new/old.mapp > 0")
    with pytest.raises(
        UnknownNameError, match=r"no cell in this evaluation called 'new/od'(.|\n)*did you mean new/old"
    ):
        judge(parse_gate("new/od.map > 0"), resampled())
    with pytest.raises(UnknownNameError, match="no metric in this evaluation called 'mrr'"):
        judge(parse_gate("new/old.mrr > 0"), resampled())


def test_a_gate_passes_on_the_bound_of_the_paired_interval():
    clear, unsure = resampled(0.2), resampled(0.006)
    gate = parse_gate("new/old.map > old/old.map")
    passed = judge(gate, clear)
    assert passed.passed
    assert 0.18 < passed.low < passed.value
    assert "lower 95 % bound" in passed.reason
    failed = judge(gate, unsure)
    assert (failed.passed, failed.value > 0, failed.low <= 0) == (False, True, True)
    assert judge(gate, unsure, point=True).passed
    assert not judge(parse_gate("new/old.map < old/old.map"), unsure).passed
    assert judge(parse_gate("old/old.map < new/old.map"), clear).passed


def test_or_equal_matters_where_the_sides_are_equal():
    assert judge(parse_gate("old/old.map >= old/old.map"), resampled()).passed
    assert not judge(parse_gate("old/old.map > old/old.map"), resampled()).passed
    assert "or at it" in judge(parse_gate("old/old.map <= old/old.map"), resampled()).reason


def test_without_a_bootstrap_only_the_point_estimate_can_decide():
    gate = parse_gate("new/old.map > old/old.map")
    with pytest.raises(FeatstoreError, match="--gate-point"):
        judge(gate, resampled(resamples=0))
    assert judge(gate, resampled(resamples=0), point=True).passed
