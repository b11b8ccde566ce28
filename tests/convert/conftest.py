"""Folders in memory: tests that make hundreds of stores would otherwise wait for the disk's fsyncs."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def new_folder():
    """A function that makes fresh folders."""
    shared_memory = Path("/dev/shm")  # noqa: S108 - a file system, not a file
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as root:
        yield lambda: Path(tempfile.mkdtemp(dir=root))
