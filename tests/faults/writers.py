"""Writers in processes of their own: a launcher that has everything imported forks them in milliseconds.

Run as a program it reads one JSON request a line and answers with one JSON value a line:
`["start", function, arguments]` → pid, `["wait", pid]` → minus the signal that ended or stopped it, or its exit status.
"""

import contextlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np

from featstore.errors import AlignmentError, AlreadyExistsError
from featstore.spaces import Space
from featstore.store import NewRows, Store, verify
from featstore.store.local_files import LocalFiles
from featstore.testing import Fault, FaultyFiles
from tests.faults.job import STEPS, fill

KEPT = 5  # rows that nobody removes while others read
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


def read_along(root, stop):
    """Open and read the store again and again until the file `stop` appears; whatever is read belongs together."""
    while not Path(stop).exists():
        features = Store.open(root).features("d/f")
        rows = features.valid_rows()
        ids = features.dataset.ids.take(rows)
        assert len(set(ids)) == len(ids) >= KEPT
        found = features.gather(rows)
        np.testing.assert_array_equal(found[:, 0], [float(text) for text in ids])
        np.testing.assert_array_equal(features.take_ids(ids), found)
        assert {str(n) for n in range(KEPT)} <= set(ids)


def with_few_descriptors(root, limit):
    """Read, check and write a store that has many more shards than this process may have open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    rows = 4 * limit
    values = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)
    store = Store.init(root)
    dataset = store.create_dataset("d", NewRows(ids=[str(n) for n in range(rows)]))
    job = store.plan_features(dataset, "f", Space.named("s", 2), np.dtype("f4"), shard_rows=1)
    assert job.n_shards == rows
    for shard in range(rows):
        job.publish(shard, values[shard : shard + 1])
    job.commit({})
    features = store.features("d/f")
    blocks = (block for _, block in features.scan())
    kept = list(itertools.islice(blocks, limit // 4))  # blocks in use hold their files open
    assert sum(len(block) for block in blocks) == rows - len(kept)
    order = np.random.default_rng(1).permutation(rows)
    np.testing.assert_array_equal(features.gather(order), values[order])
    np.testing.assert_array_equal([features.row(row) for row in order.tolist()], values[order])
    np.testing.assert_array_equal(np.concatenate(kept), values[: len(kept)])
    assert features.status().all()
    assert features.failures() == []
    assert verify(store, full=True).problems == []
    store.append_rows("d", NewRows(ids=["new"]))
    store.tag("d/f", "live")
    assert store.features("d/f@live").take_ids(["7"]).tolist() == values[7:8].tolist()


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
