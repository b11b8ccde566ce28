"""Independent processes that divide one piece of work: which of them this one is.

Ranks never talk to each other. Each takes every n-th shard, in whatever order and at whatever time they run, and the one
that finishes last commits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from featstore.errors import UsageError

__all__ = ["ALONE", "Rank", "parse_rank", "rank_here"]


@dataclass(frozen=True, slots=True)
class Rank:
    """One of several processes.

    Attributes:
        index: From 0.
        count: How many there are.
        local: How many of them share this machine's cores.
    """

    index: int
    count: int
    local: int = 1

    def owns(self, number: int) -> bool:
        """Whether a shard is this rank's, by its number among all shards, finished ones included."""
        return number % self.count == self.index

    def __str__(self) -> str:
        return f"rank {self.index} of {self.count}"


ALONE = Rank(0, 1)


def parse_rank(text: str) -> Rank:
    """`I/N`: rank I, from 0, of N.

    Raises:
        UsageError: it has another form, or there is no such rank.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UsageError(f"'{text[:40]}' is no rank", hint="write I/N with I from 0 to N − 1, for example 0/4")
    return Rank(int(match[1]), int(match[2]))


def rank_here(environment: Mapping[str, str] | None = None) -> Rank:
    """The rank that the launcher of this process gave it; `ALONE` without one.

    Known are, in this order: `RANK` and `WORLD_SIZE` (torchrun; `LOCAL_WORLD_SIZE` ranks share a machine), the tasks of a
    Slurm array and of an `srun` step (both together multiply), and `JOB_COMPLETION_INDEX` of an indexed Kubernetes job,
    which needs `JOB_COMPLETIONS` from the job's own description.

    Raises:
        UsageError: the variables contradict each other, or the number of ranks is missing.
    """
    known = os.environ if environment is None else environment
    if "RANK" in known and "WORLD_SIZE" in known:
        return _checked(known, "RANK", "WORLD_SIZE", local=_number(known, "LOCAL_WORLD_SIZE", 1))
    index, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in known:
        first, step = _number(known, "SLURM_ARRAY_TASK_MIN", 0), _number(known, "SLURM_ARRAY_TASK_STEP", 1)
        index = (_number(known, "SLURM_ARRAY_TASK_ID", 0) - first) // max(1, step)
        count = _number(known, "SLURM_ARRAY_TASK_COUNT", 1)
    if "SLURM_STEP_NUM_TASKS" in known:  # only inside srun: a batch script by itself is one process, whatever --ntasks
        tasks = _number(known, "SLURM_STEP_NUM_TASKS", 1)
        index, count = index * tasks + _number(known, "SLURM_PROCID", 0), count * tasks
    if "JOB_COMPLETION_INDEX" in known and count == 1:
        if "JOB_COMPLETIONS" not in known:
            raise UsageError(
                "JOB_COMPLETION_INDEX says which pod of a job this is, but not how many there are",
                hint="set JOB_COMPLETIONS in the job's pod template, or give --rank I/N (--rank 0/1 to work alone)",
            )
        return _checked(known, "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
    if not 0 <= index < count:
        raise UsageError(f"Slurm's variables make this rank {index} of {count}", hint="give --rank I/N")
    return Rank(index, count)


def _checked(known: Mapping[str, str], index: str, count: str, *, local: int = 1) -> Rank:
    rank = Rank(_number(known, index, 0), _number(known, count, 1), max(1, local))
    if not 0 <= rank.index < rank.count:
        raise UsageError(f"{index}={rank.index} and {count}={rank.count} contradict each other", hint="give --rank I/N")
    return rank


def _number(known: Mapping[str, str], name: str, default: int) -> int:
    text = known.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise UsageError(f"{name}='{text[:40]}' is no number", hint="give --rank I/N") from None
