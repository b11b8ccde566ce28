"""What a source cannot be is said in words; what is wrong with one entry stays with that one."""

import json
import tarfile

import numpy as np
import pytest
import zarr

from featstore.errors import BadInputError, FeatstoreError, NotFoundError, UnknownNameError, UsageError
from featstore.sources import Place, open_source
from tests.sources.conftest import add, listed, png, write_csv, write_folder, write_tar

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("nowhere", NotFoundError),
        ("notes.txt", UsageError),
        ("lmdb:photos", UnknownNameError),
        ("nowhere.csv", NotFoundError),
        ("*.tar", NotFoundError),
        ("photos?columns=x", UnknownNameError),
    ],
)
def test_the_kinds_are_listed(spec, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos")
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(error) as caught:
        open_source(spec)
    assert caught.value.hint
    if error is not UnknownNameError and "." not in spec.removesuffix(".txt"):
        assert "webdataset" in caught.value.hint


def test_columns_that_are_not_there(tmp_path):
    write_csv(tmp_path / "r.csv", ["a", "b"], [("1", "2")])
    with pytest.raises(UsageError, match="says where the images are; it has a, b"):
        open_source(str(tmp_path / "r.csv"))
    with pytest.raises(UnknownNameError, match=r"no column of .* called 'sku'"):
        open_source(f"{tmp_path}/r.csv?path=a&id=sku")


@pytest.mark.parametrize("text", ["", "path\n", "path,path\na,b\n", "path,x\na\n", 'path\n"a\n', "path\n\xff\n"])
def test_csv_files_that_are_none(text, tmp_path, skipped):
    (tmp_path / "r.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInputError):
        listed(open_source(str(tmp_path / "r.csv")), skipped)


@pytest.mark.parametrize("name", ["r.parquet", "r.npz", "r.npy", "r.tar"])
def test_files_that_are_something_else(name, tmp_path, skipped):
    (tmp_path / name).write_bytes(b"<html>not found</html>" * 60)
    with pytest.raises(BadInputError):
        listed(open_source(str(tmp_path / name)), skipped)


def test_paths_of_a_table_stay_below_its_root(tmp_path, skipped):
    write_folder(tmp_path / "photos")
    (tmp_path / "secret.png").write_bytes(png(0))
    write_csv(
        tmp_path / "photos/r.csv", ["path"], [("../secret.png",), ("cat/0.png",), (str(tmp_path / "secret.png"),)]
    )
    source = open_source(str(tmp_path / "photos/r.csv"))
    for item in listed(source, skipped):
        if item.id == "cat/0.png":
            assert source.read(item.id, item.place) == png(0)
        else:
            with pytest.raises(BadInputError, match="not a path below"):
                source.read(item.id, item.place)


def test_members_with_nasty_names_are_skipped_and_none_is_written_anywhere(tmp_path, skipped):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("../up.png", "/abs.png", "a//b.png", "ok.png", ".hidden.png"):
            add(tar, name, png(1))
        add(tar, "link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "fifo.png", b"", type=tarfile.FIFOTYPE)
        add(tar, "cafe\u0301/" + "x" * 150 + ".png", png(2))
    source = open_source(str(tmp_path / "a.tar"))
    items = listed(source, skipped)
    assert [item.id for item in items] == ["ok.png", "café/" + "x" * 150 + ".png"]
    assert [source.read(item.id, item.place) for item in items] == [png(1), png(2)]
    assert len(skipped) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar"}


def test_a_truncated_tar_keeps_what_is_whole(tmp_path, skipped):
    write_tar(tmp_path / "a.tar", range(4))
    whole = (tmp_path / "a.tar").read_bytes()
    items = listed(open_source(str(tmp_path / "a.tar")), skipped)
    (tmp_path / "a.tar").write_bytes(whole[: items[3].place.position + 20])
    source = open_source(str(tmp_path / "a.tar"))
    left = listed(source, skipped)
    assert [item.id for item in left] == [item.id for item in items][: len(left)]
    assert len(left) >= 3
    assert skipped
    assert source.read(left[2].id, left[2].place) == png(2)
    with pytest.raises(BadInputError):
        source.read(items[3].id, items[3].place)


def test_labels_beside_an_image_that_cannot_be_read_are_noted(tmp_path, skipped):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.json", b"{broken")
        add(tar, "0.png", png(0))
        add(tar, "1.json", b"[1]")
        add(tar, "1.png", png(1))
        add(tar, "2.json", json.dumps({"kind": 5}).encode())
        add(tar, "2.png", png(2))
    items = listed(open_source(f"{tmp_path}/a.tar?label=kind"), skipped)
    assert [item.label for item in items] == [None, None, "5"]
    assert len(skipped) == 2


def test_a_compressed_tar_says_why_not(tmp_path, skipped):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        add(tar, "0.png", png(0))
    with pytest.raises(BadInputError, match="no uncompressed tar") as caught:
        listed(open_source(str(tmp_path / "a.tar")), skipped)
    assert "`gunzip a.tar`" in caught.value.hint


@pytest.mark.parametrize(("name", "command"), [("a.tgz", "gunzip"), ("a.tar.zst", "zstd -d"), ("a.tar.xz", "unxz")])
@pytest.mark.parametrize("place", ["{}", "{}/{}"])
def test_a_compressed_tar_is_taken_for_one_and_says_how_to_unpack_it(tmp_path, skipped, name, command, place):
    (tmp_path / name).write_bytes(b"\x1f\x8b not a tar" * 200)
    with pytest.raises(BadInputError, match="no uncompressed tar") as caught:
        listed(open_source(place.format(tmp_path, name)), skipped)
    assert f"`{command}" in caught.value.hint
    assert f"{name}`" in caught.value.hint


@pytest.mark.parametrize("kind", ["tar", "csv", "parquet"])
def test_a_row_that_moved_is_never_taken_for_another(kind, tmp_path, skipped):
    def write(order):
        if kind == "tar":
            write_tar(tmp_path / "a.tar", order)
        elif kind == "csv":
            write_folder(tmp_path)
            rows = [(f"i{n}", f"{('cat', 'dog')[n % 2]}/{n}.png") for n in order]
            write_csv(tmp_path / "a.csv", ["id", "path"], rows)
        else:
            columns = {"id": [f"i{n}" for n in order], "image": [png(n) for n in order]}
            pq.write_table(pa.table(columns), tmp_path / "a.parquet")

    write([0, 1, 2])
    before = listed(open_source(f"{tmp_path}/a.{kind}"), skipped)
    write([2, 0, 1])
    source = open_source(f"{tmp_path}/a.{kind}")
    for item in before:
        with pytest.raises(BadInputError):
            source.read(item.id, item.place)
    with pytest.raises(BadInputError):
        source.read("i0", Place("../a", 0))


def test_arrays_of_objects_and_odd_types_are_refused(tmp_path, skipped):
    np.savez(tmp_path / "o.npz", images=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(BadInputError, match="pickled objects"):
        open_source(str(tmp_path / "o.npz"))
    np.save(tmp_path / "f.npy", np.zeros((2, 4, 4), dtype=np.float32))
    with pytest.raises(UsageError, match="float32"):
        open_source(str(tmp_path / "f.npy"))
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 4, 4), np.uint8), b=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(UsageError, match="surely"):
        open_source(str(tmp_path / "two.npz"))
    assert len(listed(open_source(f"{tmp_path}/two.npz?image=b"), skipped)) == 2


def test_zarr_with_holes_or_foreign_codecs_is_refused(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 5, 5), dtype="u1", chunks=(2, 5, 5))
    array[:2] = 1
    with pytest.raises(BadInputError, match="missing"):
        open_source(str(tmp_path / "a.zarr"))
    array[:] = 1
    open_source(str(tmp_path / "a.zarr"))
    document = json.loads((tmp_path / "a.zarr/zarr.json").read_text())
    document["codecs"].append({"name": "numcodecs.pickle"})
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(document))
    with pytest.raises(BadInputError, match="pickle"):
        open_source(str(tmp_path / "a.zarr"))


def test_hugging_face_folders_that_lie(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))
    with pytest.raises(BadInputError, match="does not list"):
        listed(open_source(f"hf:{tmp_path}"), [])
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(FeatstoreError):
        open_source(f"hf:{tmp_path}")
