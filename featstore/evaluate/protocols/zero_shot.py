"""Zero-shot metric learning on CUB-200, Cars-196 and Stanford Online Products: test classes, every row against all others.

The test classes are those unseen in training (the last 100 of CUB, the last 98 of Cars, the 11,316 of SOP's test half);
choose them with a filter such as `--where split=test`. Cut-offs as in Musgrave et al. 2020 and Song et al. 2016.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from featstore.errors import UsageError
from featstore.evaluate.protocols.retrieval import retrieval_problem

if TYPE_CHECKING:
    from featstore.evaluate.protocols.problem import Problem, Selection

__all__ = ["leave_one_out_problem"]


def leave_one_out_problem(
    selection: Selection, *, kind: str = "leave-one-out", headline: str = "map", metrics: tuple[str, ...] = ()
) -> Problem:
    """Every row queries all other rows.

    Raises:
        UsageError: The sides are filtered differently or are two datasets; and as `retrieval_problem`.
    """
    problem = retrieval_problem(selection)
    if problem.kind != "leave-one-out":
        raise UsageError(
            f"the protocol {kind} lets every row query all others, so both sides are the same rows of one dataset",
            hint="use --where for both sides, or --protocol retrieval for separate queries and gallery",
        )
    return replace(problem, kind=kind, headline=headline, metrics=metrics or problem.metrics)
