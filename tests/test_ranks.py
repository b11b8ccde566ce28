"""Which of several processes this one is, by what its launcher says."""

import pytest

from featstore.errors import UsageError
from featstore.ranks import ALONE, Rank, parse_rank, rank_here

KUBERNETES = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "14",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, Rank(1, 4, 2)),
        (ARRAY, Rank(2, 4)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, Rank(3, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, ALONE),  # a batch script that starts no step is one process
        ({**ARRAY, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Rank(5, 8)),
        (KUBERNETES, Rank(2, 3)),
    ],
)
def test_launchers_are_understood(environment, rank):
    assert rank_here(environment) == rank


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "one", "WORLD_SIZE": "4"},
        {"JOB_COMPLETION_INDEX": "0"},
        {**ARRAY, "SLURM_ARRAY_TASK_ID": "99"},
    ],
)
def test_half_a_rank_is_an_error(environment):
    with pytest.raises(UsageError, match=r"rank|RANK|JOB|number|Slurm") as raised:
        rank_here(environment)
    assert "--rank" in raised.value.hint


def test_a_rank_as_people_write_it():
    assert parse_rank("1/4") == Rank(1, 4)
    for text in ("4/4", "-1/4", "1", "1/0", "a/b", ""):
        with pytest.raises(UsageError):
            parse_rank(text)


def test_every_shard_has_one_owner():
    assert [[n for n in range(10) if Rank(k, 3).owns(n)] for k in range(3)] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
