"""What the exit status means. Scripts rely on these."""

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Exit status of every command."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    FINISHED_WITH_FAILURES = 3
    GATE_NOT_PASSED = 4
    INTERRUPTED = 130
