"""What tests give Ray actors to do. Little is imported here, because every actor imports it anew."""

import os
import signal
from pathlib import Path

from featstore.errors import NotFoundError
from featstore.store.local_files import LocalFiles


def die_once(flag):
    """Kill this process as the kernel does when memory is short, the first time."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyFiles(LocalFiles):
    """The first worker that completes shard 1 dies instead."""

    def __init__(self, root, flag):
        super().__init__(root)
        self.flag, self.home = flag, os.getpid()

    def put_new(self, key, pieces):
        if key.endswith("/shards/1.json") and os.getpid() != self.home:
            die_once(self.flag)
        return super().put_new(key, pieces)


class DeadlyVectors:
    """The first worker that reads the second half dies instead."""

    def __init__(self, array, flag):
        self.array, self.flag, self.home = array, flag, os.getpid()
        self.rows, self.width = array.shape

    def read(self, start, stop):
        if start >= self.rows // 2 and os.getpid() != self.home:
            die_once(self.flag)
        return self.array[start:stop]

    def names(self, rows):
        return [f"row {row}" for row in rows]


def prepare(work):
    return {"error": _not_found, "bug": _bug, "death": _die}[work]


def _not_found(task, _):
    raise NotFoundError(f"no {task}", hint="look elsewhere")


def _bug(task, _):
    raise ZeroDivisionError(task)


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def touch(folder):
    return lambda task, _: Path(folder, str(task)).touch()


def tell_thrice(_):
    def do(task, tell):
        for part in range(3):
            tell((task, part))
        return task

    return do
