"""Run as a program in a mount namespace of its own: a small disk fills up in the middle of the job, then becomes read-only."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from featstore.errors import FeatstoreError
from featstore.store import NewRows, Store, verify
from tests.faults.job import check_prefix, content, run

DISK_BYTES = 2 << 20
PAGE = 4096


def main():
    folder = Path(sys.argv[1])
    undisturbed = content(run(folder / "undisturbed"))
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", disk], check=True)
    met = sum(fill_up(disk, pages, undisturbed) for pages in range(1, 100, 14))
    assert met >= 5, met
    run(disk / "store")
    read_only(disk, undisturbed)
    print("ok")  # noqa: T201


def fill_up(disk, pages, undisturbed):
    """Leave so many pages; 1 if that stopped the job."""
    ballast, root, done = disk / "ballast", disk / "store", []
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * PAGE)
        except OSError:
            stream.truncate(stream.tell() - pages * PAGE)
    stopped = None
    try:
        run(root, done)
    except FeatstoreError as error:
        stopped = error
    assert stopped is None or ("no space left" in stopped.message and "free some space" in stopped.hint), stopped
    if (root / "featstore.json").exists():
        check_prefix(Store.open(root), done)
    assert not list(root.rglob(".tmp-*"))
    ballast.unlink()
    store = run(root)
    assert content(store) == undisturbed
    assert verify(store, full=True).problems == []
    shutil.rmtree(root)
    return stopped is not None


def read_only(disk, undisturbed):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    store = Store.open(disk / "store")
    assert content(store) == undisturbed
    assert verify(store, full=True).problems == []
    for write in (
        lambda: store.append_rows("d", NewRows(ids=["new"])),
        lambda: store.remove_rows("d", ["0/日本.png"]),
        lambda: store.tag("d/f", "live"),
        lambda: Store.init(disk / "another"),
    ):
        with pytest.raises(FeatstoreError, match="Read-only") as caught:
            write()
        assert str(disk) in caught.value.message
        assert "can be read from here, but not written" in caught.value.hint


if __name__ == "__main__":
    main()
