"""Retrieval protocols: each turns feature sets and filters into queries, a gallery and the ground truth between them."""

from featstore.evaluate.protocols.problem import Problem, SideCounts
from featstore.evaluate.protocols.retrieval import retrieval_problem

__all__ = ["Problem", "SideCounts", "retrieval_problem"]
