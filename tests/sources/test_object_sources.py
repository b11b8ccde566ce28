"""The kinds of sources in an object store."""

import numpy as np
import pytest

from featstore.errors import BadInputError, NotFoundError
from featstore.sources import Place, decode_image, open_source
from tests.sources.conftest import COUNT, label, listed, pixels, png, write_csv, write_folder, write_tar
from tests.sources.test_kinds import KINDS, npz, npz_compressed_channels_first, parquet_of_bytes, tars

pytest.importorskip("pyarrow")


@pytest.fixture
def upload(bucket):
    import obstore
    from obstore.store import from_url

    store = from_url(bucket, client_options={"allow_http": True})

    def everything(root):
        for path in root.rglob("*"):
            if path.is_file():
                obstore.put(store, path.relative_to(root).as_posix(), path.read_bytes())

    return everything


def check(source, skipped):
    items = listed(source, skipped)
    assert [item.label for item in items] == [label(n) for n in range(COUNT)]
    for n, item in enumerate(items):
        np.testing.assert_array_equal(np.asarray(decode_image(source.read(item.id, item.place))), pixels(n))


@pytest.mark.parametrize("write", [tars, parquet_of_bytes, npz, npz_compressed_channels_first])
def test_files_are_read_in_place(write, bucket, upload, tmp_path, skipped):
    assert write in KINDS
    spec, _ = write(tmp_path)
    upload(tmp_path)
    check(open_source(spec.replace(str(tmp_path), bucket)), skipped)


@pytest.mark.filterwarnings("default")
def test_a_saved_dataset(bucket, upload, tmp_path, skipped):
    from tests.sources.test_kinds import hugging_face

    hugging_face(tmp_path)
    upload(tmp_path)
    check(open_source(f"hf:{bucket}/saved"), skipped)


def test_a_folder_and_a_table_that_points_into_it(bucket, upload, tmp_path, skipped):
    write_folder(tmp_path / "photos")
    (tmp_path / "photos/.hidden.png").write_bytes(png(0))
    (tmp_path / "photos/readme.txt").write_text("no image")
    rows = [(f"{label(n)}/{n}.png", label(n)) for n in range(COUNT)]
    write_csv(tmp_path / "photos/rows.csv", ["path", "label"], rows)
    write_csv(tmp_path / "rows.csv", ["path", "label"], rows)
    upload(tmp_path)
    there = open_source(f"{bucket}/photos/")
    items = listed(there, skipped)
    assert [item.id for item in items] == [item.id for item in listed(open_source(str(tmp_path / "photos")), skipped)]
    assert there.read(items[0].id) == png(0)
    for id_ in ("../rows.csv", "cat//0.png", "cat/9.png"):
        with pytest.raises(BadInputError):
            there.read(id_)
    check(open_source(f"{bucket}/photos/rows.csv"), skipped)
    check(open_source(f"{bucket}/rows.csv?root=photos"), skipped)
    check(open_source(f"{tmp_path}/rows.csv?root={bucket}/photos"), skipped)


def test_what_is_not_there(bucket, skipped):
    with pytest.raises(BadInputError, match="no images below"):
        listed(open_source(f"{bucket}/photos"), skipped)
    with pytest.raises(NotFoundError):
        open_source(f"{bucket}/a.tar")
    with pytest.raises(NotFoundError):
        open_source(f"{bucket}/*.tar")
    with pytest.raises(NotFoundError):
        open_source(f"{bucket}/rows.csv")


def test_a_tar_that_vanished_fails_its_images_and_no_others(bucket, upload, tmp_path, skipped):
    write_tar(tmp_path / "a.tar", [0])
    upload(tmp_path)
    source = open_source(f"{bucket}/a.tar")
    item = listed(source, skipped)[0]
    with pytest.raises(BadInputError):
        source.read(item.id, Place("b.tar", item.place.position))
