"""Extraction from every kind of source: rows, labels, columns and features, whichever process reads them."""

import tarfile

import numpy as np
import pytest

from featstore.encoders import Preprocess
from featstore.errors import AlignmentError, BadInputError
from featstore.extract import ExtractRequest, extract
from featstore.extract.compact import CompactItems
from featstore.extract.listing import Places
from featstore.sources import Item, Place, decode_image, open_source
from featstore_cli.main import run
from featstore_training.images import ImageRows
from tests.extract import factories
from tests.sources.conftest import add, png, write_csv, write_tar

OLD = "python:tests.extract.factories:old"


def extracted(store, source, **options):
    request = {"source": str(source), "dataset": "d", "models": {"old": OLD}, "workers": 1} | options
    return extract(store, ExtractRequest(**request))


def test_a_tar_has_the_features_of_its_folder_in_worker_processes_too(store, images, tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(images, arcname=".")
    extracted(store, images, dataset="folder")
    report = extracted(store, tmp_path / "images.tar", dataset="tar", workers=2, batch=7)
    assert report.copied == 60  # the same bytes, whatever holds them
    folder, packed = store.features("folder/old"), store.features("tar/old")
    rows = folder.dataset.ids.rows_of(list(packed.dataset.ids))
    np.testing.assert_array_equal(packed.gather(np.arange(60)), folder.gather(rows))
    assert packed.dataset.labels.texts() == [folder.dataset.labels.texts()[row] for row in rows.tolist()]


def test_columns_of_a_table_become_columns_of_the_dataset(store, images, tmp_path):
    paths = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    rows = [(path, f"k{n % 4}", n, "x" if n % 2 else "", n / 4) for n, path in enumerate(paths)]
    write_csv(tmp_path / "rows.csv", ["path", "class", "Size", "Camera Name", "weight"], rows)
    extracted(store, f"{tmp_path}/rows.csv?root={images}")
    dataset = store.dataset("d")
    assert list(dataset.ids) == paths
    assert dataset.labels.texts() == [row[1] for row in rows]
    assert dataset.column("camera_name").texts() == [row[3] or None for row in rows]
    np.testing.assert_array_equal(dataset.column("weight"), [row[4] for row in rows])
    np.testing.assert_array_equal(dataset.column("other_size"), [row[2] for row in rows])
    assert extracted(store, f"{tmp_path}/rows.csv?root={images}").encoded == 0
    assert extracted(store, images).cached == 60  # the same images, listed otherwise


def test_more_tars_append_and_the_old_rows_stay(store, tmp_path):
    write_tar(tmp_path / "a-0.tar", range(20))
    first = extracted(store, f"{tmp_path}/a-*.tar")
    write_tar(tmp_path / "a-1.tar", range(20, 30))
    again = extracted(store, f"{tmp_path}/a-*.tar")
    assert (first.images, again.images, again.encoded, again.changed) == (20, 30, 10, 0)
    features = store.features("d/old")
    encoder = factories.old()
    alone = encoder.encode(encoder.preprocess.apply(decode_image(png(25)))[None])
    np.testing.assert_allclose(features.gather(np.array([25])), alone, atol=1e-6)


@pytest.mark.parametrize("name", ["a.npz", "a.tar", "rows.csv"])
def test_a_source_may_move_and_get_new_times(store, images, tmp_path, recorder, name):
    write_tar(tmp_path / "a.tar", range(24))
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8))
    paths = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    write_csv(images / "rows.csv", ["path"], [[path] for path in paths])
    (images / "rows.csv").rename(tmp_path / "rows.csv")
    options = f"?root={images}" if name == "rows.csv" else ""
    count = extracted(store, f"{tmp_path / name}{options}").images
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / name).write_bytes((tmp_path / name).read_bytes())
    again = extract(
        store,
        ExtractRequest(source=f"{tmp_path / 'moved' / name}{options}", dataset="d", models={"old": OLD}, workers=1),
        recorder,
    )
    assert (again.cached, again.changed, recorder.notes) == (count, 0, [])


def test_other_arrays_of_as_many_images_do_not_pass_for_the_same(store, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8))
    np.save(tmp_path / "b.npy", np.random.default_rng(0).integers(0, 256, (24, 8, 9), dtype=np.uint8))
    extracted(store, tmp_path / "a.npy")
    with pytest.raises(AlignmentError, match="is not the same"):
        extracted(store, tmp_path / "b.npy")


def test_broken_members_fail_alone(store, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for n in range(30):
            add(tar, f"{n:02}.png", png(n) if n != 7 else b"<html>")
    report = extracted(store, tmp_path / "a.tar", max_failures=0.1)
    assert (report.images, report.failed) == (30, 1)
    assert [failure.id for failure in store.features("d/old").failures()] == ["07.png"]


@pytest.mark.usefixtures("store")
def test_the_command_lists_the_kinds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    assert run(["extract", str(tmp_path / "nowhere"), "--dataset", "d", "--model", f"old={OLD}"]) == 1
    said = capsys.readouterr().err
    for kind in ("photos/", "rows.csv", ".tar", "saved/", "images.npz"):
        assert kind in said


def test_training_reads_placed_images_from_several_threads(store, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for n in range(40):
            add(tar, f"c{n % 4}/{n:02}.png", png(n))
    extracted(store, tmp_path / "a.tar")
    preprocess = Preprocess(size=6)
    rows = ImageRows(
        open_source(str(tmp_path / "a.tar")), Places(store.dataset("d")).take(range(40)), preprocess, None,
        seed=0, workers=4, resident_bytes=0,
    )  # fmt: skip
    for part, images in rows.blocks():
        for n, image in zip(range(part.start, part.stop), images.numpy(), strict=True):
            np.testing.assert_array_equal(image, preprocess.apply(decode_image(png(n))))


def items_of(count, **columns):
    return [
        Item(f"x{n}", None, n, n, Place("f", n), {key: make(n) for key, make in columns.items()}) for n in range(count)
    ]


def test_compact_items_are_what_went_in():
    items = CompactItems()
    parts = items_of(5, a=lambda n: n, b=lambda n: None if n < 3 else f"t{n}")
    items.extend(parts[:2])
    items.extend(parts[2:])
    items.extend([Item("ü", "cat", 9, 9, Place("g", 7), {"a": 0.5, "c": True})])
    items.check_ids()
    chosen = np.array([5, 0, 3])
    assert items.places(chosen) == [("ü", Place("g", 7)), ("x0", Place("f", 0)), ("x3", Place("f", 3))]
    ids, columns = items.rows(chosen).checked()
    assert ids == ["ü", "x0", "x3"]
    assert columns["label"].texts() == ["cat", None, None]
    assert columns["b"].texts() == [None, None, "t3"]
    np.testing.assert_array_equal(columns["a"], [0.5, 0, 3])
    np.testing.assert_array_equal(columns["size"], [9, 0, 3])


def test_ids_that_come_twice_and_columns_that_mix():
    items = CompactItems()
    items.extend(items_of(3, a=lambda n: n if n < 2 else "text"))
    assert "text" in items.left_out["a"]
    assert "a" not in items.rows(np.arange(3)).columns
    items.extend(items_of(1))
    with pytest.raises(BadInputError, match="1 ids stand in the source twice: x0"):
        items.check_ids()
