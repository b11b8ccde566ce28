"""Work that is stopped at its n-th operation on the store, as by a crash: nothing it does afterwards reaches the store."""

from pathlib import Path

from featstore.errors import FeatstoreError
from featstore.store import Store
from featstore.store.local_files import LocalFiles
from featstore.testing import Fault, FaultyFiles


def stopped_at(n, location, work):
    """Whether `work(store)` was stopped at its n-th operation, counted from 1."""
    try:
        work(Store(FaultyFiles(LocalFiles(Path(location)), Fault("fail", at=n, persistent=True))))
    except FeatstoreError:
        return True
    return False
