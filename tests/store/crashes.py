"""Files that stop a process at its n-th change of the store, as a crash would."""

from pathlib import Path

from featstore.store import Store
from featstore.store.local_files import LocalFiles


class Crash(BaseException):
    """Nothing catches it, so nothing is tidied up after it."""


class CrashingFiles(LocalFiles):
    """Every change before the n-th happens, the n-th and all later ones do not."""

    def __init__(self, root, n):
        super().__init__(root)
        self.left = n

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise Crash

    def put_new(self, key, pieces):
        self._count()
        return super().put_new(key, pieces)

    def put(self, key, data):
        self._count()
        super().put(key, data)

    def delete(self, keys):
        for key in list(keys):
            self._count()
            super().delete([key])


def stopped_at(n, location, work):
    """Whether `work(store)` was stopped at its n-th change."""
    try:
        work(Store(CrashingFiles(Path(location), n)))
    except Crash:
        return True
    return False
