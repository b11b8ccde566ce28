"""Writers in processes of their own: a launcher that has everything imported forks them in milliseconds.

Run as a program it reads one JSON request a line and answers with one JSON value a line:
`["start", function, arguments]` → pid, `["wait", pid]` → minus the signal that ended or stopped it, or its exit status.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from featstore.errors import AlignmentError, AlreadyExistsError
from featstore.store import NewRows, Store
from featstore.store.local_files import LocalFiles
from featstore.testing import Fault, FaultyFiles
from tests.faults.job import STEPS, fill

REPO = Path(__file__).parents[2]


def work(root, number=0, **fault):
    """The job, by one of several writers at once."""
    run_together(FaultyFiles(LocalFiles(Path(root)), *([Fault(**fault)] if fault else [])), number)


def run_together(files, number=0):
    """Make the store, or finish it; what another writer was first to do is done."""
    store = Store.init(files)
    for name, step in STEPS.items():
        with contextlib.suppress(AlreadyExistsError, AlignmentError):
            if name.startswith("fill"):
                fill(store, worker=number)
            else:
                step(store)


def append_many(root, number, commits):
    """Add rows one by one, and tag after each."""
    store = Store.open(root)
    for n in range(commits):
        store.append_rows("d", NewRows(ids=[f"{number}-{n}"]))
        store.tag("d/f", f"writer{number}")
        store.tag("d/f", "shared")


class Writers:
    """Starts writers and waits for them."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.writers"],
            cwd=REPO,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._running = set()

    def start(self, function, *args, **kwargs):
        """Start `function(*args, **kwargs)`; its pid."""
        pid = self._ask("start", function, args, kwargs)
        self._running.add(pid)
        return pid

    def wait(self, pid):
        """Exit status, or minus the signal that ended or stopped it."""
        status = self._ask("wait", pid)
        if status != -signal.SIGSTOP:
            self._running.discard(pid)
        return status

    def close(self):
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._launcher.communicate()

    def _ask(self, *request):
        self._launcher.stdin.write(json.dumps(request) + "\n")
        self._launcher.stdin.flush()
        return json.loads(self._launcher.stdout.readline())


def _start(function, args, kwargs):
    pid = os.fork()
    if pid:
        return pid
    try:
        globals()[function](*args, **kwargs)
    except BaseException:  # noqa: BLE001 - the child must not go on as a second launcher
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _wait(pid):
    _, status = os.waitpid(pid, os.WUNTRACED)
    return -os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps({"start": _start, "wait": _wait}[what](*arguments)), flush=True)  # noqa: T201
