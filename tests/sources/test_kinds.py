"""Every kind of source gives the images, labels and columns that were put into it, and reads them back by id and place."""

import io
import pickle

import numpy as np
import pytest
import zarr
from PIL import Image

from featstore.sources import decode_image, open_source
from tests.sources.conftest import CLASSES, COUNT, label, listed, pixels, png, write_csv, write_folder, write_tar

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def csv_of_paths(root):
    write_folder(root)
    rows = [(f"{label(n)}/{n}.png", label(n), n / 2, f"c{n % 3}") for n in range(COUNT)]
    write_csv(root / "rows.csv", ["path", "label", "weight", "camera"], rows)
    return str(root / "rows.csv"), [row[0] for row in rows]


def csv_with_ids(root):
    write_folder(root / "deep")
    rows = [(f"item\n{n}", f"{label(n)}/{n}.png", label(n), n / 2, f"c{n % 3}") for n in range(COUNT)]
    write_csv(root / "rows.csv", ["sku", "file_name", "kind", "weight", "camera"], rows)
    return f"{root}/rows.csv?id=sku&label=kind&root={root}/deep&columns=weight,camera", [row[0] for row in rows]


def parquet_of_bytes(root):
    columns = {
        "id": [f"i{n}" for n in range(COUNT)],
        "image": pa.array([{"bytes": png(n), "path": None} for n in range(COUNT)]),
        "label": pa.array([label(n) for n in range(COUNT)]).dictionary_encode(),
        "weight": [n / 2 for n in range(COUNT)],
        "camera": [f"c{n % 3}" for n in range(COUNT)],
    }
    for start in (0, 4):
        part = {key: value[start : start + 4] for key, value in columns.items()}
        pq.write_table(pa.table(part), root / f"part-{start}.parquet", row_group_size=3)
    return f"{root}/part-*.parquet", columns["id"]


def tars(root):
    write_tar(root / "s-000.tar", range(5))
    write_tar(root / "s-001.tar", range(5, COUNT))
    return f"{root}/s-{{000..001}}.tar", [f"{n:04}.png" for n in range(COUNT)]


def folder_of_tar_files(root):
    tars(root)
    return str(root), [f"{n:04}.png" for n in range(COUNT)]


def hugging_face(root):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "label": datasets.ClassLabel(names=CLASSES),
            "weight": datasets.Value("float64"),
            "camera": datasets.Value("string"),
        }
    )
    rows = {
        "picture": [{"bytes": png(n), "path": None} for n in range(COUNT)],
        "label": [n % 2 for n in range(COUNT)],
        "weight": [n / 2 for n in range(COUNT)],
        "camera": [f"c{n % 3}" for n in range(COUNT)],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root / "saved", num_shards=2)
    return str(root / "saved"), [f"{n:09}" for n in range(COUNT)]


def arrays():
    return {
        "images": np.stack([pixels(n) for n in range(COUNT)]),
        "labels": np.arange(COUNT) % 2,
        "class_names": np.array(CLASSES),
        "weight": np.arange(COUNT) / 2,
        "camera": np.array([f"c{n % 3}" for n in range(COUNT)]),
    }


def npz(root):
    np.savez(root / "a.npz", **arrays())
    return str(root / "a.npz"), [f"{n:09}" for n in range(COUNT)]


def npz_compressed_channels_first(root):
    made = arrays()
    made["images"] = np.ascontiguousarray(made["images"].transpose(0, 3, 1, 2))
    np.savez_compressed(root / "a.npz", **made, ids=np.array([f"x{n}" for n in range(COUNT)]))
    return str(root / "a.npz"), [f"x{n}" for n in range(COUNT)]


def zarr_group(root):
    group = zarr.create_group(root / "a.zarr")
    for name, values in arrays().items():
        dtype = "string" if values.dtype.kind == "U" else values.dtype
        array = group.create_array(name, shape=values.shape, dtype=dtype, chunks=(3, *values.shape[1:]))
        array[:] = values.astype(np.dtypes.StringDType()) if dtype == "string" else values
    return str(root / "a.zarr"), [f"{n:09}" for n in range(COUNT)]


KINDS = [
    csv_of_paths, csv_with_ids, parquet_of_bytes, tars, folder_of_tar_files, hugging_face, npz,
    npz_compressed_channels_first, zarr_group,
]  # fmt: skip


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)
def test_what_was_written_is_listed_and_read(write, tmp_path, skipped):
    spec, ids = write(tmp_path)
    source = open_source(spec)
    items = listed(source, skipped)
    assert skipped == []
    assert [item.id for item in items] == ids
    assert [item.label for item in items] == [label(n) for n in range(COUNT)]
    for n, item in enumerate(items):
        wanted = {"weight": n / 2, "camera": f"c{n % 3}"}
        assert {key: item.columns[key] for key in wanted} == wanted
    there = pickle.loads(pickle.dumps(source))  # noqa: S301 - as a worker process gets it
    for n in (7, 0, 3, 4, 2):
        for reader in (source, there):
            image = decode_image(reader.read(items[n].id, items[n].place))
            np.testing.assert_array_equal(np.asarray(image), pixels(n))
    assert listed(there, skipped) == items


@pytest.mark.filterwarnings("default")
def test_splits_of_a_dataset_dict_are_columns_and_part_of_the_id(tmp_path, skipped):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    parts = {
        name: datasets.Dataset.from_dict({"image": [{"bytes": png(n)} for n in some], "label": some}, features=features)
        for name, some in (("train", [0, 1, 2]), ("test", [3, 4]))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    source = open_source(str(tmp_path / "saved"))
    items = listed(source, skipped)
    assert [item.id for item in items] == [
        "train/000000000", "train/000000001", "train/000000002", "test/000000000", "test/000000001"
    ]  # fmt: skip
    assert [(item.label, item.columns["split"]) for item in items][2:4] == [("2", "train"), ("3", "test")]
    assert source.read(items[4].id, items[4].place) == png(4)


def test_a_packed_folder_has_the_ids_and_labels_of_the_folder(tmp_path, skipped):
    import tarfile

    write_folder(tmp_path / "photos")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for child in sorted((tmp_path / "photos").iterdir()):
            tar.add(child, arcname=f"./{child.name}")
    folder = listed(open_source(str(tmp_path / "photos")), skipped)
    packed = listed(open_source(str(tmp_path / "photos.tar")), skipped)
    assert sorted((item.id, item.label, item.size) for item in packed) == [(i.id, i.label, i.size) for i in folder]
    assert skipped == []


def test_grey_arrays_and_single_npy(tmp_path, skipped):
    grey = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    np.save(tmp_path / "a.npy", grey)
    source = open_source(str(tmp_path / "a.npy"))
    items = listed(source, skipped)
    np.testing.assert_array_equal(np.asarray(decode_image(source.read(items[1].id, items[1].place))), grey[1])
    assert Image.open(io.BytesIO(source.read(items[2].id, items[2].place))).mode == "L"


def test_numbers_of_a_csv_are_numbers_and_codes_are_not(tmp_path, skipped):
    write_folder(tmp_path)
    rows = [("cat/0.png", "1", "007", "1.5", "", "x,y"), ("dog/1.png", "2", "008", "", "3", 'say "no"')]
    write_csv(tmp_path / "r.csv", ["path", "count", "code", "price", "gap", "text"], rows)
    items = listed(open_source(str(tmp_path / "r.csv")), skipped)
    assert [dict(item.columns) for item in items] == [
        {"count": 1, "code": "007", "price": 1.5, "gap": None, "text": "x,y"},
        {"count": 2, "code": "008", "price": None, "gap": 3, "text": 'say "no"'},
    ]
