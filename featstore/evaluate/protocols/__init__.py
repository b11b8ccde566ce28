"""Protocols: each turns feature sets and filters into queries, a gallery and the ground truth between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from featstore.errors import UnknownNameError, UsageError
from featstore.evaluate.protocols.agreement import agreement_problem
from featstore.evaluate.protocols.faces import face_problem, template_problem
from featstore.evaluate.protocols.gldv2 import gldv2_problem
from featstore.evaluate.protocols.inshop import inshop_problem
from featstore.evaluate.protocols.problem import Problem, Selection, SideCounts
from featstore.evaluate.protocols.reid import reid_problem
from featstore.evaluate.protocols.retrieval import retrieval_problem
from featstore.evaluate.protocols.revisited import revisited_problem
from featstore.evaluate.protocols.zero_shot import leave_one_out_problem

__all__ = ["PROTOCOLS", "Problem", "ProtocolInfo", "Selection", "SideCounts", "build_problem", "retrieval_problem"]


@dataclass(frozen=True, slots=True)
class ProtocolInfo:
    """A protocol as users see it.

    Attributes:
        name: What to write.
        description: One line.
        build: Makes the problem.
        needs_ground_truth: Whether a ground truth file says what answers what.
    """

    name: str
    description: str
    build: Callable[[Selection], Problem]
    needs_ground_truth: bool = False


def _zero_shot(name: str, recalls: tuple[int, ...]) -> Callable[[Selection], Problem]:
    metrics = (*(f"recall@{k}" for k in recalls), "map@r", "r-precision")
    return partial(leave_one_out_problem, kind=name, headline="recall@1", metrics=metrics)


PROTOCOLS: dict[str, ProtocolInfo] = {
    info.name: info
    for info in (
        ProtocolInfo(
            "retrieval",
            "queries against a gallery by class; without filters every row against all others",
            retrieval_problem,
        ),
        ProtocolInfo("leave-one-out", "every row queries all others of the same rows", leave_one_out_problem),
        ProtocolInfo(
            "agreement",
            "without labels: the share of the newest model's own first 10 that is found; gives no verdict",
            agreement_problem,
        ),
        ProtocolInfo(
            "cub",
            "CUB-200 zero-shot: test classes, leave-one-out, recall@1,2,4,8 and map@r",
            _zero_shot("cub", (1, 2, 4, 8)),
        ),
        ProtocolInfo(
            "cars",
            "Cars-196 zero-shot: test classes, leave-one-out, recall@1,2,4,8 and map@r",
            _zero_shot("cars", (1, 2, 4, 8)),
        ),
        ProtocolInfo(
            "sop",
            "Stanford Online Products: test classes, leave-one-out, recall@1,10,100,1000",
            _zero_shot("sop", (1, 10, 100, 1000)),
        ),
        ProtocolInfo(
            "inshop", "In-shop clothes: query partition against gallery partition, recall@1,10,20,30", inshop_problem
        ),
        ProtocolInfo(
            "revisited-easy",
            "revisited Oxford or Paris, easy answers",
            partial(revisited_problem, setting="easy"),
            needs_ground_truth=True,
        ),
        ProtocolInfo(
            "revisited-medium",
            "revisited Oxford or Paris, easy and hard answers",
            partial(revisited_problem, setting="medium"),
            needs_ground_truth=True,
        ),
        ProtocolInfo(
            "revisited-hard",
            "revisited Oxford or Paris, hard answers",
            partial(revisited_problem, setting="hard"),
            needs_ground_truth=True,
        ),
        ProtocolInfo(
            "gldv2",
            "Google Landmarks v2 retrieval, private queries, map@100 as the official scorer",
            gldv2_problem,
            needs_ground_truth=True,
        ),
        ProtocolInfo(
            "gldv2-public", "the same, public queries", partial(gldv2_problem, usage="public"), needs_ground_truth=True
        ),
        ProtocolInfo(
            "reid", "re-identification as on Market-1501: other cameras, junk dropped, distractors kept", reid_problem
        ),
        ProtocolInfo("verification", "1:1 over all pairs: tar@far", partial(face_problem, measure="verification")),
        ProtocolInfo(
            "identification", "1:N with rejection: tpir@fpir", partial(face_problem, measure="identification")
        ),
        ProtocolInfo(
            "ijb-1:1", "1:1 over all pairs of templates, norms kept", partial(template_problem, measure="verification")
        ),
        ProtocolInfo(
            "ijb-1:1:unit",
            "1:1 over all pairs of templates, rows normalised first",
            partial(template_problem, measure="verification", keep_norm=False),
        ),
        ProtocolInfo("ijb-1:n", "1:N of templates, norms kept", partial(template_problem, measure="identification")),
        ProtocolInfo(
            "ijb-1:n:unit",
            "1:N of templates, rows normalised first",
            partial(template_problem, measure="identification", keep_norm=False),
        ),
    )
}
"""Every protocol by its name."""


def build_problem(name: str, selection: Selection) -> Problem:
    """Choose rows and ground truth by the protocol of that name.

    Raises:
        UnknownNameError: There is no such protocol.
        UsageError: It needs a ground truth file, or has no use for one; and as the protocol itself.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    if selection.ground_truth is not None and not PROTOCOLS[name].needs_ground_truth:
        with_one = ", ".join(info.name for info in PROTOCOLS.values() if info.needs_ground_truth)
        raise UsageError(f"the protocol {name} reads no ground truth file", hint=f"--ground-truth goes with {with_one}")
    return PROTOCOLS[name].build(selection)
