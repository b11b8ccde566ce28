"""Invariant 3: `verify` finds what is damaged, and names it."""

import shutil

import pytest

from featstore.errors import UsageError
from featstore.store import Store, verify


def test_a_sound_store_passes(small):
    for full in (False, True):
        report = verify(small, full=full)
        assert report.problems == []
        assert report.names == ["d@2", "d/f@1"]
        assert report.shards == 3
    assert verify(small, "d/f", full=True).bytes_read > verify(small, "d/f", full=True, sample=0.3).bytes_read > 0
    with pytest.raises(UsageError):
        verify(small, sample=0)
    with pytest.raises(UsageError, match="did you mean f"):
        verify(small, "d/ff")


@pytest.mark.parametrize("damage", ["delete", "truncate", "empty", "extend"])
def test_quick_finds_files_that_are_not_whole(small, tmp_path, damage):
    copy = Store.open(shutil.copytree(small.location, tmp_path / "copy"))
    files = [
        path
        for part in ("features", "spaces")
        for path in (copy.files.root / part).rglob("*")
        if path.is_file() and "versions" not in path.parts
    ]
    for path in files:
        if path.name == "plan.json" or {"tags", "alive"} & set(path.parts):
            continue  # a plan is history once its segment is committed; tags are read when they are asked for
        original = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes({"truncate": original[:-1], "empty": b"", "extend": original + b"\0"}[damage])
        assert verify(copy).problems, path
        path.write_bytes(original)
    assert verify(copy).problems == []


def test_swapped_shards_are_found_and_their_rows_named(small, tmp_path):
    copy = Store.open(shutil.copytree(small.location, tmp_path / "copy"))
    [first] = (copy.files.root / "features").glob("*/*/segments/*/features/c.0.0")
    second = first.with_name("c.1.0")
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert verify(copy).problems == []  # sizes agree: only reading them tells
    assert [problem.rows for problem in verify(copy, full=True).problems] == [(0, 8), (8, 16)]
