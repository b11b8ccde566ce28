"""Listing image folders, and reading nothing but what lies below them."""

import os
import pickle
import unicodedata

import pytest

from featstore.errors import BadInputError, NotFoundError
from featstore.sources import ImageFolder


def put(root, name, data=b"x"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def listed(root):
    skipped = []
    return list(ImageFolder.open(root).rows(skipped.append)), {entry.path: entry.reason for entry in skipped}


def test_class_folders(tmp_path):
    put(tmp_path, "b/2.JPG", b"12345")
    put(tmp_path, "b/10.png")
    put(tmp_path, "a/deep/er/1.webp")
    put(tmp_path, "top.gif")
    for other in ("b/notes.txt", "b/.hidden.jpg", ".git/x.png", "a/noextension"):
        put(tmp_path, other)
    os.utime(tmp_path / "b/2.JPG", ns=(5, 1234567890123456789))
    items, skipped = listed(tmp_path)
    assert [(i.id, i.label) for i in items] == [
        ("a/deep/er/1.webp", "a"), ("b/10.png", "b"), ("b/2.JPG", "b"), ("top.gif", None),
    ]  # fmt: skip
    assert (items[2].size, items[2].mtime_ns) == (5, 1234567890123456789)
    assert skipped == {}
    assert listed(tmp_path)[0] == items


def test_listing_streams(tmp_path):
    for n in range(5):
        put(tmp_path, f"{n}/x.png")
    rows = ImageFolder.open(tmp_path).rows(lambda _: None)
    assert next(rows).id == "0/x.png"
    put(tmp_path, "4/y.png")
    assert [item.id for item in rows][-1] == "4/y.png"


def test_links(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(outside, "secret.png", b"secret")
    real = put(root, "a/real.png", b"real")
    (root / "a/link.png").symlink_to(real)
    (root / "a/out.png").symlink_to(outside / "secret.png")
    (root / "a/loop").symlink_to(root)
    (root / "alias").symlink_to(root / "a")
    (root / "away").symlink_to(outside)
    (root / "dangling.png").symlink_to(root / "nothing.png")
    (root / "self.png").symlink_to(root / "self.png")
    items, skipped = listed(root)
    assert [i.id for i in items] == ["a/link.png", "a/real.png", "alias/link.png", "alias/real.png"]
    assert "above" in skipped["a/loop"]
    assert "above" in skipped["alias/loop"]
    assert "leads out" in skipped["a/out.png"]
    assert "leads out" in skipped["away"]
    assert "cannot be read" in skipped["dangling.png"]
    assert "self.png" in skipped
    folder = ImageFolder.open(root)
    assert folder.read("a/link.png") == b"real"
    for id_ in ("a/out.png", "away/secret.png"):
        with pytest.raises(BadInputError, match="leads out"):
            folder.read(id_)


def test_a_folder_beside_the_root_with_its_name_as_prefix_is_outside(tmp_path):
    put(tmp_path, "photos/x.png")
    put(tmp_path, "photos-private/y.png")
    (tmp_path / "photos/y.png").symlink_to(tmp_path / "photos-private/y.png")
    items, skipped = listed(tmp_path / "photos")
    assert [i.id for i in items] == ["x.png"]
    assert "leads out" in skipped["y.png"]


def test_a_root_that_is_a_link_itself(tmp_path):
    put(tmp_path, "real/a/x.png", b"1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [i.id for i in listed(tmp_path / "link")[0]] == ["a/x.png"]
    assert ImageFolder.open(tmp_path / "link").read("a/x.png") == b"1"


def test_fifos_and_unreadable_folders_are_skipped_without_waiting(tmp_path, monkeypatch):
    put(tmp_path, "a/x.png")
    os.mkfifo(tmp_path / "a/pipe.png")
    put(tmp_path, "locked/y.png")
    real = os.scandir

    def scandir(path):  # as root, no permission ever fails
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    items, skipped = listed(tmp_path)
    assert [i.id for i in items] == ["a/x.png"]
    assert skipped == {"a/pipe.png": "not a regular file", "locked": "cannot be listed: Permission denied"}
    with pytest.raises(BadInputError, match="regular"):
        ImageFolder.open(tmp_path).read("a/pipe.png")


def test_ids_are_nfc_and_find_files_with_decomposed_names(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café/é.png")
    put(tmp_path, decomposed, b"coffee")
    items, _ = listed(tmp_path)
    assert [(i.id, i.label) for i in items] == [("café/é.png", "café")]
    assert ImageFolder.open(tmp_path).read("café/é.png") == b"coffee"


@pytest.mark.parametrize("name", ["é.png", "é/x.png"])
def test_two_names_equal_in_nfc_are_an_error_that_names_both(tmp_path, name):
    put(tmp_path, unicodedata.normalize("NFC", name))
    put(tmp_path, unicodedata.normalize("NFD", name))
    with pytest.raises(BadInputError, match="same name") as caught:
        listed(tmp_path)
    assert "\\xe9" in str(caught.value)
    assert "e\\u0301" in str(caught.value)


def test_odd_names(tmp_path):
    for name in ("a/C:\\x.png", "a/new\nline.png", "a/Case.png", "a/case.png", "a/" + "x" * 240 + ".png"):
        put(tmp_path, name, name.encode())
    (tmp_path / "a" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    items, skipped = listed(tmp_path)
    assert len(items) == 5
    folder = ImageFolder.open(tmp_path)
    assert all(folder.read(item.id) == item.id.encode() for item in items)
    assert list(skipped.values()) == ["the name is not valid UTF-8"]


@pytest.mark.parametrize(
    "id_", ["../secret.png", "a/../../secret.png", "/etc/passwd", "a//x.png", "./x.png", "", "x\0.png", "a/", ".."]
)
def test_no_id_leads_out_of_the_folder(tmp_path, id_):
    put(tmp_path, "secret.png")
    put(tmp_path, "root/a/x.png")
    with pytest.raises(BadInputError):
        ImageFolder.open(tmp_path / "root").read(id_)


def test_what_is_not_there(tmp_path):
    put(tmp_path, "full/x.png")
    folder = ImageFolder.open(tmp_path / "full")
    for id_ in ("y.png", "x.png/y.png", "b/y.png"):
        with pytest.raises(BadInputError):
            folder.read(id_)
    with pytest.raises(NotFoundError):
        ImageFolder.open(tmp_path / "none")
    put(tmp_path, "empty/notes.txt")
    (tmp_path / "empty/out.png").symlink_to(tmp_path / "full/x.png")
    with pytest.raises(BadInputError, match=r"no images below .* \(1 entries"):
        listed(tmp_path / "empty")


def test_a_huge_file_is_not_read(tmp_path):
    with put(tmp_path, "huge.png").open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BadInputError, match="bytes, more than"):
        ImageFolder.open(tmp_path).read("huge.png")


def test_it_pickles(tmp_path):
    put(tmp_path, "x.png", b"data")
    folder = pickle.loads(pickle.dumps(ImageFolder.open(tmp_path)))  # noqa: S301 - as it goes to worker processes
    assert folder.read("x.png") == b"data"
    assert folder.root == str(tmp_path)
