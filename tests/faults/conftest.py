import tempfile
from pathlib import Path

import pytest

from tests.faults.job import run
from tests.faults.writers import Writers


@pytest.fixture
def place(tmp_path):
    """A folder for many short-lived stores: in memory where that is possible, since nothing here loses power."""
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="featstore-faults-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The store that the job makes when nothing goes wrong."""
    return run(tmp_path_factory.mktemp("undisturbed") / "store")


@pytest.fixture(scope="session")
def writers():
    """Starts writers in processes of their own."""
    running = Writers()
    yield running
    running.close()
