"""Invariants 1 and 9 where a machine's limits are met: a full disk, a read-only one, few file descriptors."""

import shutil
import subprocess
import sys

import pytest

from featstore.errors import FeatstoreError
from featstore.store import Store, verify
from featstore.store.local_files import LocalFiles
from featstore.testing import FaultyFiles
from tests.faults.job import check_prefix, content, run
from tests.faults.writers import REPO

NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def test_a_place_that_fills_up(place, undisturbed):
    size = sum(info.size for info in undisturbed.files.walk())
    for capacity in range(0, size, size // 25):
        root, done = place / "store", []
        files = FaultyFiles(LocalFiles(root), capacity=capacity)
        with pytest.raises(FeatstoreError, match="no space left") as caught:
            run(files, done)
        assert "free some space" in caught.value.hint
        if (root / "featstore.json").exists():
            check_prefix(Store.open(root), done)
        files.capacity = None
        store = run(files)
        assert content(store) == content(undisturbed)
        assert verify(store, full=True).problems == []
        shutil.rmtree(root)


def test_a_small_disk_fills_up_and_becomes_read_only(place):
    """On a real file system, in a mount namespace of its own."""
    if not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let tests mount file systems")
    command = [*NAMESPACE, sys.executable, "-m", "tests.faults.small_disk", str(place)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_more_shards_than_file_descriptors(writers, place):
    assert writers.wait(writers.start("with_few_descriptors", str(place / "store"), 48)) == 0
