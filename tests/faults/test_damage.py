"""Invariant 3: whatever is damaged, a reader gets the same data or a typed error, never other numbers.

One exception is documented: a shard of a local folder is read as a memory map, without its checksums; there `verify` tells.
"""

import contextlib

import pytest

from featstore.errors import FeatstoreError
from featstore.store import Store, verify
from tests.faults.job import FIRST, check_prefix, content
from tests.faults.memory import MemoryFiles

PLACES = pytest.mark.parametrize("local", [True, False], ids=["folder", "objects"])


def everything(store):
    """All that a reader can get, the older version under its tag included."""
    Store.open(store.files)
    old = store.features("d/f@old")
    rows = old.valid_rows()
    return content(store), store.features("d/f@live").version, rows.tolist(), old.gather(rows).tolist()


def check_damaged(files, expected, what):
    """The same, an error, or (in a shard of a folder) other bytes that `verify` finds."""
    store = Store(files)
    try:
        found = everything(store)
    except FeatstoreError:
        return
    if found != expected:
        assert files.local, what
        assert "/features/c" in what, what
        assert verify(store, full=True).problems, what


def replaced(files, key, data):
    changed = {**files.content, key: data}
    if data is None:
        del changed[key]
    return MemoryFiles(changed, local=files.local)


def flip_every(undisturbed, stride, *, local):
    files = MemoryFiles.of(undisturbed.files, local=local)
    expected = everything(Store(files))
    place = 0
    for key, data in sorted(files.content.items()):
        for byte in range(len(data)):
            place += 1
            if place % stride == 0:
                flipped = bytearray(data)
                flipped[byte] ^= 1 << (place // stride % 8)
                check_damaged(replaced(files, key, bytes(flipped)), expected, f"{key}, byte {byte}")


@PLACES
def test_flipped_bytes_are_found_or_change_nothing(undisturbed, local):
    flip_every(undisturbed, 211, local=local)


@pytest.mark.full
@pytest.mark.timeout(1800)
@PLACES
def test_every_flipped_byte_is_found_or_changes_nothing(undisturbed, local):
    flip_every(undisturbed, 1, local=local)


DAMAGES = {
    "delete": lambda data: None,  # noqa: ARG005
    "empty": lambda data: b"",  # noqa: ARG005
    "truncate": lambda data: data[:-1],
    "halve": lambda data: data[: len(data) // 2],
    "extend": lambda data: data + b"\0",
    "repeat": lambda data: data + data,
    "null": lambda data: b"\0" * len(data),
    "braces": lambda data: b"{}",  # noqa: ARG005
    "list": lambda data: b"[]",  # noqa: ARG005
    "deep": lambda data: b"[" * 100_000,  # noqa: ARG005
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whole_files_are_damaged(undisturbed, damage):
    files = MemoryFiles.of(undisturbed.files, local=True)
    expected = everything(Store(files))
    for key, data in files.content.items():
        damaged = replaced(files, key, DAMAGES[damage](data))
        if damage == "delete" and ("/versions/" in key or "/tags/" in key):
            # without the newest commit, the one before it is the last
            check_earlier(damaged)
        else:
            check_damaged(damaged, expected, key)


def check_earlier(files):
    with contextlib.suppress(FeatstoreError):
        check_prefix(Store(files), [])


def test_files_are_swapped(undisturbed):
    """Two documents, chunks or shards of one kind in each other's place: every checksum is right, and the place is wrong."""
    files = MemoryFiles.of(undisturbed.files, local=True)
    expected = everything(Store(files))
    kinds = {}
    for key in files.content:
        kinds.setdefault((key.split("/")[0], _kind(key)), []).append(key)
    pairs = [(a, b) for keys in kinds.values() for n, a in enumerate(keys) for b in keys[n + 1 :]]
    assert len(pairs) > 100
    for one, two in pairs:
        swapped = MemoryFiles({**files.content, one: files.content[two], two: files.content[one]}, local=True)
        store = Store(swapped)
        try:
            found = everything(store)
        except FeatstoreError:
            continue
        assert found == expected or verify(store, full=True).problems, (one, two)


def _kind(key):
    name = key.rpartition("/")[2]
    return name if name == "zarr.json" else "record" if name.endswith(".json") else "data"


def test_metadata_that_claims_too_much_allocates_nothing(undisturbed):
    files = MemoryFiles.of(undisturbed.files, local=True)
    expected = everything(Store(files))
    for key, data in files.content.items():
        if key.endswith("zarr.json"):
            for number in {str(FIRST), "6", "8", "3"}:
                claimed = data.replace(f" {number}".encode(), b" 1000000000000")
                check_damaged(replaced(files, key, claimed), expected, key)
